"""Bridges to other packages: ArviZ, emcee and pyerrors, each in a module of its own that imports nothing else's."""
