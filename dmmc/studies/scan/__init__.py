"""Samplers over many lattice sizes or couplings: critical slowing down, costs, and where the transition is."""
