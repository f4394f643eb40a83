"""What is wanted: lattices, actions, their symmetries, observables."""
