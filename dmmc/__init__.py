"""dmmc: exact Metropolis sampling of lattice phi^4 with diffusion-model proposals."""

__version__ = "0.1.0"
