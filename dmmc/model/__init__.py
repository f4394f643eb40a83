"""What is learned: the noise process, the networks, their training and their files."""
