"""An action in another process: phi^4 in a C server (own_action_server.c), with the fields in shared memory.

    python examples/own_action_process.py [--out own_action] [--extent 16] [--batch 256] [--repeats 200]

The server is built with the system's compiler and sampled with HMC. Then the time of an evaluation is compared with
that of the same C code called through ctypes: the two take turns, and the fastest of many evaluations counts, which is
the one that other work on the machine has disturbed least. dmmc.interop.process describes the protocol, which an MPI
program can speak just as well.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from own_action_c import KAPPA, LAM, build

import dmmc
from dmmc.interop.process import Server


def microseconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - began)


def main(out: Path, extent: int, batch: int, repeats: int) -> None:
    """Sample with the server, and measure what the way to it costs."""
    out.mkdir(parents=True, exist_ok=True)
    source, program = Path(__file__).with_name("own_action_server.c"), out.absolute() / "phi4_server"
    subprocess.run(["cc", "-O2", "-ffp-contract=off", "-o", program, source], check=True)
    couplings = {"kappa": KAPPA, "lam": LAM}
    library = build(out)
    inside = dmmc.action(library.phi4_action, library.phi4_grad, backend="ctypes", name="phi4_c", **couplings)
    with Server([program, KAPPA, LAM], timeout=10) as server:
        action = dmmc.action(server.S, server.grad, name="phi4_server", symmetry="z2", **couplings)
        lattice = dmmc.Lattice((extent, extent))
        run = dmmc.make_ensemble(action, lattice, out / "server.h5", chains=64, draws=30, overwrite=True)
        print(run.summary())

        phi = torch.randn(batch, extent, extent, dtype=torch.float64)
        for what, calls in {
            "S": (lambda: inside(phi), lambda: action(phi)),
            "gradient": (lambda: inside.grad(phi), lambda: action.grad(phi)),
        }.items():
            times = [[microseconds(call) for call in calls] for _ in range(repeats)]
            through_ctypes, through_memory = (min(column) for column in zip(*times, strict=True))
            print(
                f"{what} of {batch} fields: {through_ctypes:.0f} us through ctypes, {through_memory:.0f} us from the "
                f"server ({100 * (through_memory / through_ctypes - 1):+.1f} %)"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("own_action"), help="where the files go")
    parser.add_argument("--extent", type=int, default=16, help="of the two-dimensional lattice")
    parser.add_argument("--batch", type=int, default=256, help="fields in an evaluation")
    parser.add_argument("--repeats", type=int, default=1000, help="of which the fastest counts")
    arguments = parser.parse_args()
    main(arguments.out, arguments.extent, arguments.batch, arguments.repeats)
