"""The gallery: figures and numbers of the literature on diffusion models as stochastic quantisation, made anew."""
