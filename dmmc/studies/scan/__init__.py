"""Samplers over many lattice sizes or couplings."""
