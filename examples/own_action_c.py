"""A compiled action in dmmc: phi^4 in C (own_action.c), built with the system's compiler and called through ctypes.

    python examples/own_action_c.py [--out own_action] [--extent 8] [--draws 100] [--steps 300]

The C action is checked, sampled with HMC, and sampled with a model. At the end the same kernels run with the C action
and with dmmc.Phi4, from the same fields and the same random numbers: they accept the same proposals, bit for bit.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
from pathlib import Path

import torch

import dmmc

KAPPA, LAM = 0.25, 0.05


def build(folder: Path) -> ctypes.CDLL:
    """The library of own_action.c."""
    source, library = Path(__file__).with_name("own_action.c"), folder.absolute() / "own_action.so"
    # Without contraction to fused operations, so that the gradient is that of dmmc.Phi4 to the last bit.
    subprocess.run(["cc", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def main(out: Path, extent: int, draws: int, steps: int) -> None:
    """Check the action, sample it, and compare decisions."""
    out.mkdir(parents=True, exist_ok=True)
    library, lattice = build(out), dmmc.Lattice((extent, extent))
    action = dmmc.action(
        library.phi4_action,
        library.phi4_grad,
        backend="ctypes",
        name="phi4_c",
        symmetry="z2",
        kappa=KAPPA,  # the parameters reach the C functions as doubles in this order
        lam=LAM,
    )
    hmc = dmmc.make_ensemble(action, lattice, out / "hmc.h5", chains=64, draws=draws, keep_every=5, overwrite=True)
    model = dmmc.train(hmc, out / "model.safetensors", action=action, steps=steps, overwrite=True)
    run = dmmc.sample(
        model, out / "chain.h5", action=action, chains=32, draws=draws, flow_steps=10, reference=hmc, overwrite=True
    )
    print(run.summary())

    built_in, phi = dmmc.Phi4(KAPPA, LAM), torch.as_tensor(hmc.cfgs()[:64])
    flow = dmmc.flow_proposal(model, 10)
    for name, kernels in {
        "HMC": [dmmc.HMC(one, lattice, step_size=0.2, n_leapfrog=5) for one in (action, built_in)],
        "model": [dmmc.Independence(one, lattice, flow) for one in (action, built_in)],
    }.items():
        accepted, fields = [], []
        for kernel in kernels:
            generator = torch.Generator().manual_seed(1)
            steps = list(kernel.steps(kernel.start(phi, generator), 20, generator))
            accepted.append(torch.stack([info.accepted for _, info in steps]))
            fields.append(steps[-1][0].phi)
        same = torch.equal(*accepted) and torch.equal(*fields)
        print(f"{name}: {accepted[0].numel()} decisions, {'all the same' if same else 'NOT THE SAME'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("own_action"), help="where the files go")
    parser.add_argument("--extent", type=int, default=8, help="of the two-dimensional lattice")
    parser.add_argument("--draws", type=int, default=100, help="of each chain")
    parser.add_argument("--steps", type=int, default=300, help="of the optimiser")
    arguments = parser.parse_args()
    main(arguments.out, arguments.extent, arguments.draws, arguments.steps)
