"""Figures: NumPy arrays in, a matplotlib ``Figure`` out. matplotlib is loaded when the first one is drawn."""

from dmmc.pages.figures.autocorrelation import autocorrelation
from dmmc.pages.figures.canvas import make_panels, points, save
from dmmc.pages.figures.correlators import two_point, wall_correlator
from dmmc.pages.figures.denoising import denoising
from dmmc.pages.figures.histograms import log_weights, magnetisation
from dmmc.pages.figures.history import acceptance, traces
from dmmc.pages.figures.rounds import learning_curve
from dmmc.pages.figures.training import training_loss

__all__ = [
    "acceptance",
    "autocorrelation",
    "denoising",
    "learning_curve",
    "log_weights",
    "magnetisation",
    "make_panels",
    "points",
    "save",
    "traces",
    "training_loss",
    "two_point",
    "wall_correlator",
]
