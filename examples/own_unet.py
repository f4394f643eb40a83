"""An ordinary U-Net, trained in its own loop as most people train one, becomes an exact sampler.

    python examples/own_unet.py [--minutes 1] [--out own_unet]

The network predicts the noise, has no symmetry and no periodic trick but its padding, and knows nothing of dmmc. It is
trained by plain denoising on fields from Hybrid Monte Carlo. dmmc makes paths of its reverse diffusion the proposals of
a Metropolis chain, which corrects what the network has not learned: the acceptance depends on it, the averages do not.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import dmmc

ACTION, LATTICE = dmmc.Phi4(kappa=0.2, lam=0.1), dmmc.Lattice((8, 8))
SIGMA_MIN, SIGMA_MAX = 0.1, 5.0


class Block(nn.Module):
    """Two convolutions with a shift by the noise level, and a short cut."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        settings = {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}
        self.first, self.second = nn.Conv2d(before, channels, **settings), nn.Conv2d(channels, channels, **settings)
        self.noise, self.cut = nn.Linear(16, channels), nn.Conv2d(before, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.first(x) + self.noise(embedding)[:, :, None, None])
        return nn.functional.silu(self.second(hidden)) + self.cut(x)


class UNet(nn.Module):
    """The noise in ``x = phi + sigma eps``, of fields ``(m, 1, L, L)`` with even L and ``log sigma`` ``(m,)``."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.down, self.middle = Block(1, channels), Block(channels, 2 * channels)
        self.up = Block(3 * channels, channels)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        waves = log_sigma[:, None] * torch.arange(1, 9, device=x.device) * 0.3
        embedding = torch.cat([waves.sin(), waves.cos()], 1).to(x)
        x = x / (1 + (2 * log_sigma).exp()).sqrt()[:, None, None, None]
        fine = self.down(x, embedding)
        coarse = self.middle(nn.functional.avg_pool2d(fine, 2), embedding)
        coarse = nn.functional.interpolate(coarse, scale_factor=2)
        return self.out(self.up(torch.cat([fine, coarse], 1), embedding))


def train(net: UNet, phi: Tensor, minutes: float) -> None:
    """Learn to tell the noise: nothing here is of dmmc."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    began = time.monotonic()
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - share)
        batch = phi[torch.randint(len(phi), (128,))][:, None]
        log_sigma = torch.empty(128).uniform_(math.log(SIGMA_MIN), math.log(SIGMA_MAX))
        eps = torch.randn_like(batch)
        loss = (net(batch + log_sigma.exp()[:, None, None, None] * eps, log_sigma) - eps).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main() -> None:
    """Make fields, train the network in its own loop, and run the exact chain with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to train")
    parser.add_argument("--draws", type=int, default=200, help="draws of each of 32 chains")
    parser.add_argument("--out", type=Path, default=Path("own_unet"), help="folder of the results")
    args = parser.parse_args()
    torch.manual_seed(1)

    hmc = dmmc.make_ensemble(ACTION, LATTICE, args.out / "hmc.h5", chains=64, draws=args.draws, keep_every=5)
    net = UNet(16)
    train(net, torch.as_tensor(hmc.cfgs()).float(), args.minutes)

    model = dmmc.foreign(
        net,
        predicts="eps",
        schedule=dmmc.VE(SIGMA_MAX, SIGMA_MIN, argument="log_sigma"),
        ensemble=hmc,
        arguments={"channels": 16},
    )
    model.save(args.out / "unet.safetensors")
    run = dmmc.sample(model, args.out / "unet.h5", chains=32, draws=args.draws)
    print(run.summary())
    for name in ("abs_M", "M2", "phi2"):
        print(f"{name:8}{run.summary().observables[name]!s:>14}  HMC {hmc.summary().observables[name]}")


if __name__ == "__main__":
    main()
