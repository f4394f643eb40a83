"""Networks as other codes have them, for tests: exact ones of a Gaussian field, and small trainable ones."""

import torch

from dmmc.theory.lattice import Lattice


class GaussianNet(torch.nn.Module):
    """The exact prediction for a Gaussian field of given propagator and mean, whatever it is told about the noise.

    Args:
        shape: of the lattice.
        propagator: by momentum orbit, in the units of the network.
        mean: in these units.
        predicts: as in dmmc.foreign.
        preserves: whether the process preserves the variance.
        sigma_of: the noise that belongs to what the network is told.
        channel: whether fields have an axis of channels.
    """

    def __init__(self, shape, propagator, mean, predicts, preserves, sigma_of, channel=True):
        super().__init__()
        self.lattice = Lattice(shape)
        self.register_buffer("c", self.lattice.spread(propagator))
        self.mean, self.predicts, self.preserves = mean, predicts, preserves
        self.sigma_of, self.channel = sigma_of, channel
        self.told = []

    def forward(self, x, told):
        assert x.ndim == self.lattice.dim + (2 if self.channel else 1) and told.shape == x.shape[:1]
        self.told.append(told)
        x = x.squeeze(1) if self.channel else x
        sigma = self.sigma_of(told.double()).to(x).view(-1, *(1,) * self.lattice.dim)
        a = 1 / (1 + sigma**2).sqrt() if self.preserves else torch.ones_like(sigma)
        b = a * sigma
        # x is Gaussian of mean a mean and covariance a^2 C + b^2.
        modes = self.lattice.to_modes(x - a * self.mean)
        score = -self.lattice.to_sites(modes / (a**2 * self.c.to(x) + b**2))
        eps = -b * score
        x0 = (x - b * eps) / a
        out = {"score": score, "eps": eps, "x0": x0, "v": a * eps - b * x0}[self.predicts]
        return out.unsqueeze(1) if self.channel else out


class SmallNet(torch.nn.Module):
    """Two periodic convolutions, with the noise as a second channel and, if asked, a layer in between."""

    def __init__(self, channels=4, between=None):
        super().__init__()
        settings = {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}
        self.first = torch.nn.Conv2d(2, channels, **settings)
        self.between = {
            None: torch.nn.Identity,
            "batch": lambda: torch.nn.BatchNorm2d(channels),
            "statistics": lambda: torch.nn.BatchNorm2d(channels, track_running_stats=False),
            "group": lambda: torch.nn.GroupNorm(2, channels),
            "dropout": lambda: torch.nn.Dropout(0.2),
        }[between]()
        self.second = torch.nn.Conv2d(channels, 1, **settings)

    def forward(self, x, told):
        told = told.view(-1, 1, 1, 1).expand_as(x)
        return self.second(torch.nn.functional.silu(self.between(self.first(torch.cat([x, told], 1)))))


class Answer(torch.nn.Module):
    """Returns what a function makes of the fields."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, told):
        return self.function(x)
