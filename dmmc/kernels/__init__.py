"""Markov kernels that leave exp(-S) invariant, one a file; what they share is in :mod:`dmmc.kernels.base`."""
