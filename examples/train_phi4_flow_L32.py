"""How the shipped model phi4-flow-L32 was made: 32^2, m2 = -4, lam_m = 4.572 (xi = L/4), one hour on 2 cores in all.

    python examples/train_phi4_flow_L32.py OUT

An ensemble from embedded cluster updates, then one training run; the hour covers both. Interrupted, it goes on
where it was when it is started again. A budget in minutes is not reproducible bit by bit; the seed fixes all else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dmmc.cli.memory import keep_freed_memory
from dmmc.model.training import TrainingOptions
from dmmc.runs import chain, storage
from dmmc.studies import workflow
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice

ACTION = Phi4.from_mass(m2=-4.0, lam_m=4.572, dim=2)
LATTICE = Lattice((32, 32))
SEED = 32
MINUTES = 57.5  # of training; the ensemble takes about half a minute more


def main(out: Path) -> None:
    """Make the ensemble and the model in ``out``."""
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    ensemble = out / "ensemble.h5"
    if not ensemble.exists():
        run = chain.ChainOptions(draws=160, keep_every=10, block=40, seed=SEED)
        options = workflow.EnsembleOptions("cluster", chains=512, thermalise=100, run=run, length=2.0)
        workflow.make_ensemble(ACTION, LATTICE, options, ensemble, resume=Path(f"{ensemble}.partial").exists())
    phi = torch.as_tensor(storage.load_fields(ensemble), dtype=torch.float32)
    phi = phi[torch.randperm(len(phi), generator=torch.Generator().manual_seed(SEED))]
    options = TrainingOptions(minutes=MINUTES, seed=SEED, compile=True)
    path = out / "phi4-flow-L32.safetensors"
    workflow.train(ACTION, LATTICE, phi, options, path, resume=True)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
