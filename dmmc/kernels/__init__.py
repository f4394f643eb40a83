"""Markov kernels that leave exp(-S) invariant, each in its own file; :mod:`dmmc.kernels.base` has what they share."""
