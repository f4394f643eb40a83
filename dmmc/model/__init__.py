"""Diffusion models: the noise process, the networks, their training and their files."""
