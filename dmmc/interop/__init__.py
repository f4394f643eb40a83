"""Bridges to other packages, each in a module of its own: ArviZ, emcee and pyerrors."""
