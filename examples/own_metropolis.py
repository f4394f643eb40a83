"""A lattice code with its own action, its own HMC and its own Metropolis test, to which a model's proposals are added.

    python examples/own_metropolis.py [--shape 16 16] [--minutes 2] [--updates 400]

The code works on one NumPy array that it changes in place, and decides by ``accrej(new, old)`` on the action, as codes
on GPT do. dmmc trains on the configurations of its HMC. Then trajectories and proposals take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import dmmc
from dmmc.interop.accrej import Metropolis, array_metropolis

KAPPA, LAM = 0.26, 0.022


# What the code has had before


def action(phi):
    hop = sum((phi * np.roll(phi, -1, axis)).sum() for axis in range(phi.ndim))
    return -2 * KAPPA * hop + ((1 - 2 * LAM) * phi**2 + LAM * phi**4).sum()


def force(phi):
    around = sum(np.roll(phi, step, axis) for axis in range(phi.ndim) for step in (1, -1))
    return -2 * KAPPA * around + 2 * (1 - 2 * LAM) * phi + 4 * LAM * phi**3


def trajectory(phi, metro, random, steps=12, size=0.12):
    momentum = random.normal(size=phi.shape)
    accrej = metro(phi)
    old = action(phi) + (momentum**2).sum() / 2
    momentum -= size / 2 * force(phi)
    for step in range(steps):
        phi += size * momentum
        momentum -= (size if step < steps - 1 else size / 2) * force(phi)
    return accrej(action(phi) + (momentum**2).sum() / 2, old)


# What dmmc adds


def proposal(phi, metro):
    accrej = metro(phi)
    old = action(phi)
    accrej.propose()
    return accrej(action(phi), old)


def main(shape: tuple[int, ...], minutes: float | None, steps: int | None, updates: int) -> None:
    """Make configurations, train on them, and let trajectories and proposals take turns."""
    random = np.random.default_rng(1)
    plain = array_metropolis(random)  # this code's own metropolis object
    phi, ensemble = np.zeros(shape), []
    for k in range(10 * updates):
        trajectory(phi, plain, random)
        if k >= updates and k % 3 == 0:
            ensemble.append(phi.copy())

    with tempfile.TemporaryDirectory() as folder:
        theory = dmmc.Phi4(KAPPA, LAM)
        model = dmmc.train(
            np.stack(ensemble), Path(folder, "model.safetensors"), action=theory, minutes=minutes, steps=steps
        )

    metro = Metropolis(dmmc.propose(model, 12), seed=1, metropolis=plain)
    accepted, magnetisation = [], []
    for k in range(2 * updates):
        if k % 2:
            trajectory(phi, metro, random)
        else:
            accepted.append(proposal(phi, metro))
        magnetisation.append(phi.mean())
    metro.close()
    series = np.array([magnetisation])
    print(f"proposals accepted: {np.mean(accepted):.2f}")
    print(f"<M^2> = {dmmc.diagnostics.gamma_method(series**2)}")
    print(f"<M>   = {dmmc.diagnostics.gamma_method(series)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[16, 16])
    parser.add_argument("--minutes", type=float, default=2, help="of training")
    parser.add_argument("--steps", type=int, help="of training, in place of minutes")
    parser.add_argument("--updates", type=int, default=400, help="proposals")
    arguments = parser.parse_args()
    minutes = None if arguments.steps else arguments.minutes
    main(tuple(arguments.shape), minutes, arguments.steps, arguments.updates)
