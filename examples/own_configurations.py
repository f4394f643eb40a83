"""An ensemble, an action and an observable of one's own: from an array of numbers to a finished report.

    python examples/own_configurations.py

makes an ensemble of anharmonic oscillators with NumPy, in place of another program. All the rest takes fifteen lines of
code: the import with its checks, training, exact sampling, and a page that compares the two.
"""

import argparse

import numpy as np

import dmmc


def another_program(file: str, sites: int, draws: int, chains: int = 8) -> None:
    """Metropolis updates of a chain of anharmonic oscillators, stored with axes n, c, x."""
    rng = np.random.default_rng(1)
    phi, kept = rng.normal(size=(chains, sites)), []
    for sweep in range(100 + 10 * draws):
        for start in range(2):
            near = np.roll(phi, 1, 1) + np.roll(phi, -1, 1)
            new = phi + rng.uniform(-1.2, 1.2, phi.shape)
            before, after = (x * x * (1.5 + 0.25 * x * x) - near * x for x in (phi, new))
            moved = (np.arange(sites) % 2 == start) & (rng.random(phi.shape) < np.exp(before - after))
            phi = np.where(moved, new, phi)
        if sweep >= 100 and sweep % 10 == 9:
            kept.append(phi)
    np.save(file, np.array(kept))


def main(arguments: list[str] | None = None) -> None:
    """Make the ensemble, and do everything with it that dmmc can."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--draws", type=int, default=200, help="configurations of each of the 8 chains")
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    args = parser.parse_args(arguments)
    another_program("mine.npy", args.sites, args.draws)

    def S(phi):
        return (phi * phi * (1.5 + 0.25 * phi * phi) - phi * phi.roll(1, 1)).sum(1)

    def neighbours(phi, S):
        return (phi * phi.roll(1, 1)).mean(1)

    action = dmmc.AutogradAction(S, "oscillators", symmetry="z2")
    mine = dmmc.import_fields(
        "mine.npy", "mine.h5", action=action, axes="n c x", label="mine", observables={"nn": neighbours}
    )
    model = dmmc.train(mine, "model.safetensors", action=action, steps=args.steps)
    run = dmmc.sample(
        model, "chain.h5", action=action, reference=mine, draws=args.draws, observables={"nn": neighbours}
    )
    print(run.summary())
    run.report("report.html", beside=[mine])


if __name__ == "__main__":
    main()
