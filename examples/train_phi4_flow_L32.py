"""How the shipped model phi4-flow-L32 was made: 32^2, m2 = -4, lam_m = 4.572 (xi = L/4), in one hour on 2 cores.

    python examples/train_phi4_flow_L32.py OUT

An ensemble is made with embedded cluster updates, then a model is trained on it; the hour covers both. After an
interruption, start the script again, and it continues where it was. A training budget in minutes is not reproducible
bit by bit; everything else is fixed by the seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dmmc
from dmmc.cli.memory import keep_freed_memory
from dmmc.model.options import TrainingOptions
from dmmc.studies import training

ACTION = dmmc.Phi4.from_mass(m2=-4.0, lam_m=4.572, dim=2)
LATTICE = dmmc.Lattice((32, 32))
SEED = 32
MINUTES = 57.5  # of training; the ensemble takes about half a minute more


def main(out: Path) -> None:
    """Make the ensemble and the model in the folder ``out``."""
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    ensemble = out / "ensemble.h5"
    if not ensemble.exists():
        dmmc.make_ensemble(
            ACTION,
            LATTICE,
            ensemble,
            method="cluster",
            chains=512,
            draws=160,
            keep_every=10,
            thermalise=100,
            trajectory=2.0,
            seed=SEED,
            resume=Path(f"{ensemble}.partial").exists(),
        )
    path = out / "phi4-flow-L32.safetensors"
    options = TrainingOptions(minutes=MINUTES, seed=SEED, compile=True)
    training.train(ensemble, path, options, resume=True)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
