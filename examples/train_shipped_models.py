"""How the models that come with the package were made, on one core each.

    python examples/train_shipped_models.py OUT                      # all of them, in about two hours
    python examples/train_shipped_models.py OUT --only phi4-flow-L16 # one, and those that it starts from

Ensembles are made with embedded cluster updates. The models of larger lattices start from those of smaller ones, whose
filters and matrices they take over. Each gets a card, ``OUT/NAME.md``, with what its chain of ``dmmc sample`` shows.
After an interruption, start the script again, and it continues where it was. A training budget in minutes is not
reproducible bit by bit; everything else is fixed by the seed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import dmmc
from dmmc.cli.memory import keep_freed_memory
from dmmc.model.options import TrainingOptions
from dmmc.runs.summary_text import number
from dmmc.studies import training

SEED = 32
EVERY = 10
"""Cluster updates, each with an HMC trajectory, between two kept fields."""


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        L: extent of the lattice.
        action: the theory.
        steps, minutes: of training, one of them.
        size: of the network; None for that of the model it starts from.
        start: name of the model that the training starts from.
        chains: of the ensemble, each of which gives 16 fields.
        learning_rate: the largest one.
        trajectories: of the posterior chain. Some of these models are from before one was the default.
    """

    L: int
    action: dmmc.Phi4
    steps: int | None = None
    minutes: float | None = None
    size: str | None = "tiny"
    start: str | None = None
    chains: int = 640
    learning_rate: float = 5e-3
    trajectories: int = 1


def flow_benchmark(lam_m: float) -> dmmc.Phi4:
    """The theories of the flow papers, whose correlation length is a quarter of the lattice."""
    return dmmc.Phi4.from_mass(m2=-4.0, lam_m=lam_m, dim=2)


RECIPES = {
    "phi4-kappa0.27-L16": Recipe(16, dmmc.Phi4(0.27, 0.022), 24_000),
    "phi4-flow-L8": Recipe(8, flow_benchmark(6.008), 12_000),
    "phi4-flow-L16": Recipe(16, flow_benchmark(5.0), 24_000),
    "phi4-flow-L32": Recipe(32, flow_benchmark(4.572), 40_000, size=None, start="phi4-flow-L16", chains=512),
    "phi4-flow-L64": Recipe(
        64, flow_benchmark(4.398), 12_000, size=None, start="phi4-flow-L32", chains=256, learning_rate=3e-3
    ),
    # Networks that are accepted more often; the first of them is only where the others start.
    "medium-L16": Recipe(16, flow_benchmark(5.0), minutes=3.0, size="medium", trajectories=16),
    "phi4-flow-L32-medium": Recipe(
        32, flow_benchmark(4.572), minutes=20.0, size=None, start="medium-L16", chains=512, trajectories=16
    ),
    "phi4-flow-L64-medium": Recipe(
        64, flow_benchmark(4.398), minutes=30.0, size=None, start="phi4-flow-L32-medium", chains=256, learning_rate=3e-3
    ),
}
"""By name. Before them, the large model ``phi4-flow-L32-large`` was trained for an hour with ``size="large"``."""


def make(name: str, out: Path) -> Path:
    """The model of this name in the folder ``out``, and those that it starts from."""
    recipe, path = RECIPES[name], out / f"{name}.safetensors"
    if path.exists():
        return path
    init = None if recipe.start is None else dmmc.load_model(make(recipe.start, out))
    ensemble = out / f"{name}.h5"
    if not ensemble.exists():
        dmmc.make_ensemble(
            recipe.action,
            dmmc.Lattice((recipe.L, recipe.L)),
            ensemble,
            method="cluster",
            chains=recipe.chains,
            draws=16 * EVERY,
            keep_every=EVERY,
            thermalise=150,
            trajectory=2.0,
            seed=SEED,
            resume=Path(f"{ensemble}.partial").exists(),
        )
    options = TrainingOptions(
        steps=recipe.steps,
        minutes=recipe.minutes,
        seed=SEED,
        learning_rate=recipe.learning_rate,
        trajectories=recipe.trajectories,
    )
    training.train(ensemble, path, options, size=recipe.size, init=init, resume=True)
    return path


def card(name: str, model: dmmc.DiffusionModel, chain: dmmc.Run) -> str:
    """What there is to know about a model, in Markdown.

    Args:
        name: its name.
        model: the model.
        chain: its chain with the defaults of ``dmmc sample``.
    """
    found, history = chain.summary(), model.history
    assert history is not None and found.certificate is not None
    theory = ", ".join(f"{key} = {x:.6g}" for key, x in model.action.items() if isinstance(x, float))
    if not name.startswith("phi4-kappa"):
        kappa, lam = model.action["kappa"], model.action["lam"]
        theory += f" (mass form: m2 = {(1 - 2 * lam) / kappa - 4:.4g}, lam_m = {lam / kappa**2:.4g})"
    network = model.network.describe()
    start, cores = (RECIPES[name].start, "one core") if name in RECIPES else (None, "two cores")
    flow = chain.header.provenance["flow"]
    tau = [found.observables[key] for key in ("M", "M2")]
    rows = {
        "theory": f"phi^4 on {' x '.join(map(str, model.lattice.shape))}, {theory}",
        "network": f"{network['filters']} filters; {network['hidden1']}, {network['hidden2']} channels; "
        f"{sum(x.numel() for x in model.network.parameters()):,} weights",
        "training": f"{history.steps:,} steps in {history.seconds / 60:.0f} min on {cores}, on {history.ensemble:,} "
        f"fields made with cluster updates{'' if start is None else f', starting from {start}'}",
        "acceptance": f"{found.acceptance:.3f}",
        "ESS/N, std(log w)": f"{found.ess_fraction:.3f}, {found.std_log_w:.2f}",
        "tau_int of M, M^2": ", ".join(number(x.tau_int, x.tau_int_error) for x in tau),
        "integration": f"steps {tuple(flow['n_steps'])} of {flow['method']}: {chain.header.cost['network']:g} "
        "evaluations",
        "certificate": f"bias of any observable at most {found.bias_bound_sigma:.1e} of its standard deviation, "
        f"{100 * (found.bias_of_error or 0):.1g} % of the statistical error of {found.chains} chains of {found.draws}",
    }
    return "\n".join([f"## {name}", "", "| | |", "|---|---|", *(f"| {key} | {x} |" for key, x in rows.items()), ""])


def describe(name: str, out: Path) -> None:
    """Run the chain of a model with the defaults, and write its card."""
    path = out / f"{name}-chain.h5"
    model = dmmc.load_model(out / f"{name}.safetensors")
    chain = dmmc.load_run(path) if path.exists() else dmmc.sample(model, path, resume=True)
    (out / f"{name}.md").write_text(card(name, model, chain), encoding="utf-8")


def main() -> None:
    """Make the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for ensembles and models")
    parser.add_argument("--only", choices=list(RECIPES), help="make one of them")
    args = parser.parse_args()
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else RECIPES:
        print(make(name, args.out))
        describe(name, args.out)


if __name__ == "__main__":
    main()
