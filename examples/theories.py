"""Six theories through the same door: trained, sampled exactly, and compared with HMC.

    python examples/theories.py [NAME ...] [--out theories] [--steps 400] [--chains 64] [--draws 200] [--extent L]

NAME is o2 or o4 (the O(N) model), field (phi^4 in an external field), sine-gordon, three (phi^4 in three dimensions) or
one (in one dimension, the others have two); without it, all run, each for a minute or two. Nothing in the loop knows
which theory it works with: what has no symmetry gets a network with biases and a mean, what has that of the sign an odd
one, and what has rotations one that is equivariant.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import dmmc

THEORIES = {
    "o2": (dmmc.Phi4(0.26, 0.022, components=2), (8, 8)),
    "o4": (dmmc.Phi4(0.26, 0.022, components=4), (8, 8)),
    "field": (dmmc.ExternalField(dmmc.Phi4(0.25, 0.022), 0.1), (8, 8)),
    "sine-gordon": (dmmc.SineGordon(m2=0.2, alpha=0.1, beta=math.sqrt(4 * math.pi)), (8, 8)),
    "three": (dmmc.Phi4(0.1923, 0.9), (4, 4, 4)),
    "one": (dmmc.Phi4(0.35, 0.1), (32,)),
}
NETWORK = {"filters": 4, "hidden1": 16, "hidden2": 12}


def compare(name: str, out: Path, steps: int, chains: int, draws: int, extent: int | None) -> None:
    """Train and sample one theory, and print its table beside HMC."""
    action, shape = THEORIES[name]
    lattice = dmmc.Lattice(shape if extent is None else (extent,) * len(shape))
    paths = [out / f"{name}-{what}" for what in ("hmc.h5", "model.safetensors", "chain.h5")]
    length = {"chains": chains, "draws": draws, "overwrite": True}
    # Steps between draws cost HMC little, and training learns more from fields that are further apart.
    hmc = dmmc.make_ensemble(action, lattice, paths[0], steps_per_draw=5, keep_every=2, **length)
    model = dmmc.train(hmc, paths[1], steps=steps, config=NETWORK, overwrite=True)
    run = dmmc.sample(model, paths[2], reference=hmc, **length)
    of_hmc, of_model = hmc.summary(), run.summary()
    theory, couplings = action.label(lattice.dim)
    print(f"\n{theory}: {couplings}, on {' x '.join(map(str, lattice.shape))}")
    print(
        f"symmetry {model.symmetry}, acceptance {of_model.acceptance:.3f}, effective fraction of the proposals (ESS/N) "
        f"{of_model.ess_fraction:.3f}"
    )
    print(f"{'observable':12s} {'HMC':>20s} {'diffusion':>20s} {'z':>6s}")
    scores = {}
    for key in (name for name in of_hmc.observables if name in of_model.observables):
        a, b = of_hmc.observables[key], of_model.observables[key]
        scores[key] = (b.value - a.value) / math.hypot(a.error, b.error)
        print(f"{key:12s} {a!s:>20s} {b!s:>20s} {scores[key]:+6.1f}")
    worst = max(scores, key=lambda key: abs(scores[key]))
    print(f"The largest of {len(scores)} deviations is that of {worst}, {abs(scores[worst]):.1f} standard deviations.")


def main() -> None:
    """Read the command line, and compare the theories that it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"theories: {', '.join(THEORIES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("theories"), metavar="PATH", help="where the files go")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="training steps of each theory")
    parser.add_argument("--chains", type=int, default=64, metavar="N", help="parallel chains")
    parser.add_argument("--draws", type=int, default=200, metavar="N", help="draws of each chain")
    parser.add_argument("--extent", type=int, metavar="L", help="extent of all lattices, in place of their own")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(THEORIES))
    if unknown:
        parser.error(f"there is no theory {unknown[0]!r}; there are {', '.join(THEORIES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or THEORIES:
        compare(name, args.out, args.steps, args.chains, args.draws, args.extent)


if __name__ == "__main__":
    main()
