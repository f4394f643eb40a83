"""Figures: NumPy arrays in, a matplotlib ``Figure`` out. matplotlib is loaded when the first one is drawn."""

from dmmc.report.figures.autocorrelation import autocorrelation
from dmmc.report.figures.canvas import SYMBOLS, make_panels, points, save
from dmmc.report.figures.correlators import propagator, two_point, wall_correlator
from dmmc.report.figures.denoising import denoising
from dmmc.report.figures.histograms import log_weights, magnetisation
from dmmc.report.figures.history import acceptance, traces
from dmmc.report.figures.training import training_loss

__all__ = [
    "SYMBOLS",
    "acceptance",
    "autocorrelation",
    "denoising",
    "log_weights",
    "magnetisation",
    "make_panels",
    "points",
    "propagator",
    "save",
    "traces",
    "training_loss",
    "two_point",
    "wall_correlator",
]
