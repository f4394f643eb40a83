"""A model of dmmc in blackjax, and a flow of bijx in dmmc: both chains in one table.

    pip install "dmmc[peers]"
    python examples/blackjax_and_bijx.py [--shape 8 8] [--minutes 1] [--steps 400]

The action is bijx's, in the mass form.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import bijx
import blackjax
import jax
import numpy as np
import torch

import dmmc
from dmmc.interop.bijx import proposal_from
from dmmc.interop.blackjax import Irmh

M2, LAM, CHAINS = 1.0, 0.8, 32


def S(phi):
    return bijx.lattice.scalar.phi4_term(phi, M2, LAM).sum()


def main(shape: tuple[int, ...], minutes: float | None, train_steps: int | None, steps: int) -> None:
    """Train a model, run it in blackjax, and a Gaussian of bijx in dmmc."""
    jax.config.update("jax_enable_x64", True)
    lattice, theory = dmmc.Lattice(shape), dmmc.Phi4.from_mass(M2, LAM, len(shape))
    with tempfile.TemporaryDirectory() as folder:
        hmc = dmmc.make_ensemble(theory, lattice, Path(folder, "hmc.h5"), chains=64, draws=60, thermalise=50)
        model = dmmc.train(hmc, Path(folder, "model.safetensors"), minutes=minutes, steps=train_steps)

        chain = Irmh(dmmc.flow_proposal(model, 8), S, lattice)
        kernel = blackjax.irmh(*chain.functions)
        state = jax.vmap(lambda key: kernel.init(chain.start(key)))(jax.random.split(jax.random.key(0), CHAINS))
        step, series = jax.jit(jax.vmap(kernel.step)), []
        for key in jax.random.split(jax.random.key(1), steps):
            state, _ = step(jax.random.split(key, CHAINS), state)
            series.append(np.mean(np.asarray(state.position.phi).reshape(CHAINS, -1) ** 2, 1))
        print(f"blackjax, model of dmmc:  <phi^2> = {dmmc.diagnostics.gamma_method(np.stack(series[10:], 1))}")

        width = float(torch.as_tensor(hmc.cfgs()).std())
        gaussian = bijx.Transformed(bijx.IndependentNormal(event_shape=shape), bijx.Scaling(jax.numpy.asarray(width)))
        kernel = dmmc.Independence(theory, lattice, proposal_from(gaussian, f"Gaussian of width {width}"))
        run = dmmc.run_chain(kernel, Path(folder, "bijx.h5"), chains=CHAINS, draws=steps, discard=50)
        print(f"dmmc, Gaussian of bijx:   <phi^2> = {run.summary().observables['phi2']}")
        print(f"dmmc, HMC:                <phi^2> = {hmc.summary().observables['phi2']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[8, 8])
    parser.add_argument("--minutes", type=float, default=1, help="of training")
    parser.add_argument("--train-steps", type=int, help="of training, in place of minutes")
    parser.add_argument("--steps", type=int, default=400, help="of the chains")
    arguments = parser.parse_args()
    minutes = None if arguments.train_steps else arguments.minutes
    main(tuple(arguments.shape), minutes, arguments.train_steps, arguments.steps)
