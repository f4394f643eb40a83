"""The exactness laboratory: ways to put a diffusion model into Metropolis, side by side, against a known truth.

Each variant is a chain of one theory with one model. Some are exact; some are recipes that look alike and are not, and
say so in every file. The truth is quadrature on one or two sites, else cluster updates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import replace_file
from dmmc.core.version import VERSION
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.kernels import cluster, hmc
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import NetworkSize
from dmmc.model.training import TrainingOptions
from dmmc.proposals.certificate import Certificate, certify, choose_steps
from dmmc.proposals.flow import FlowProposal
from dmmc.report import figures, page
from dmmc.runs import chain, storage
from dmmc.studies import workflow
from dmmc.studies.exactness import figures as exactness_figures
from dmmc.studies.exactness import table as exactness_table
from dmmc.studies.exactness.table import OBSERVABLES, SEEN
from dmmc.studies.exactness.truth import Means, agreement, means, odd_is_zero, quadrature
from dmmc.studies.exactness.variants import NAMES, TRAJECTORY, VARIANTS, Bench, Variant
from dmmc.studies.exactness.wrong import Unadjusted
from dmmc.studies.folder import PLAN, begun, open_folder, remove_run
from dmmc.theory.actions import Action, Phi4
from dmmc.theory.lattice import Lattice

INTEGRATOR_SHARE = 0.05
"""The flow has so many steps that the bound on its bias is below this part of a statistical error."""

NETWORK = NetworkSize(filters=3, hidden1=12, hidden2=6)
"""Small: its flaws are what there is to see, and exactness does not depend on it."""

ENSEMBLE_DRAWS, ENSEMBLE_EVERY = 16, 3
BURN_IN, BURN_IN_INEXACT = 8, 16
"""Steps thrown away: of chains that begin at fields of the target, and of chains that begin at proposals."""

BLOCK = 8
TRUTH_EVERY = 2
MIN_CHAINS = 32

RESULTS = ("exactness.json", "table.txt", "bias.png", "report.html")

DRAWS, DRAWS_LARGE, LARGE = 98_304, 24_576, 256
"""Draws of each variant by default; and from so many sites on, where they cost more."""


@dataclass(frozen=True)
class ExactnessOptions:
    """What the laboratory does.

    Attributes:
        action: the theory.
        shape: the lattice.
        variants: of :data:`NAMES`.
        draws: of each variant, all chains together; fewer of the expensive ones, more of the cheap ones.
        chains: parallel chains of each variant.
        truth_draws: of the cluster sampler, all chains together.
        steps: optimiser steps of the training.
        model: a model file instead.
        flow_steps: integration steps of the flow; None takes what the draws need.
        seed: of everything.
        device: where.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work.
    """

    action: Action
    shape: tuple[int, ...] = (8, 8)
    variants: tuple[str, ...] = NAMES
    draws: int = DRAWS
    chains: int = 512
    truth_draws: int = 524_288
    steps: int = 400
    model: str | None = None
    flow_steps: int | None = None
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.variants) - set(NAMES))
        if not self.variants or unknown or len(set(self.variants)) < len(self.variants):
            raise DmmcError(f"variants must be different ones of {', '.join(NAMES)}; got {list(self.variants)}")
        if Lattice(self.shape).volume < 2:
            raise DmmcError("the laboratory needs two sites or more; with one there is no nonzero momentum")
        if not isinstance(self.action, Phi4):
            raise DmmcError("the laboratory is for phi^4: its truth comes from cluster updates")
        if self.chains < MIN_CHAINS:
            raise DmmcError(f"errors are from the scatter of the chains: {MIN_CHAINS} at least, got {self.chains}")
        least = MIN_DRAWS * self.chains
        if self.draws < least or self.truth_draws < least:
            raise DmmcError(
                f"{self.chains} chains of {MIN_DRAWS} draws are {least} at least; "
                f"got draws = {self.draws}, truth_draws = {self.truth_draws}"
            )
        if self.steps < 1 or (self.flow_steps is not None and self.flow_steps < 1):
            raise DmmcError("steps and flow_steps must be positive")
        if not 0 <= self.seed < 2**63:
            raise DmmcError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        self.load_model()

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        return Lattice(self.shape)

    def load_model(self) -> DiffusionModel | None:
        """The given model, checked; None if one is to be trained."""
        if self.model is None:
            return None
        model = DiffusionModel.load(self.model, device=self.device)
        model.check_fits(self.action, self.lattice)
        return model

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity of the laboratory, compared on resumption."""
        model = self.load_model()
        return {
            **{name: value for name, value in asdict(self).items() if name != "action"},
            "action": self.action.describe(),
            "model": None if model is None else model.fingerprint(),
        }


def exactness(
    options: ExactnessOptions, out: str | Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run the laboratory.

    Args:
        options: what to do.
        out: the folder of the results: ``exactness.json``, ``table.txt``, ``bias.png``, ``report.html``, and the
            model, the truth and the chains, one run file each.
        resume: go on with one that was interrupted, variant by variant, or analyse a finished one again.
        overwrite: remove an earlier one's files first.

    Returns:
        The content of ``exactness.json``: ``plan``, ``truth``, ``flow`` (its steps and its
        :meth:`dmmc.proposals.certificate.Certificate.summary`), ``variants``, ``agreement`` of the exact ones, ``missed`` (what
        is not exact and was not seen) and the table.

    Raises:
        FileError: if ``out`` holds a laboratory, without ``resume`` or ``overwrite``, or there is none to resume.
        MismatchError: if the one to be resumed has other options; the message names them.
    """
    out = Path(out)
    open_folder(out, options.describe(), "laboratory", resume, overwrite, lambda _: _clear(out))
    lattice, stages = options.lattice, workflow.Stages()
    with stages("truth"):
        truth, about = _truth(options, out)
    with stages("model"):
        model, fields = _model(options, out)
        flow, certificate = _flow(options, model)
    chosen = [variant for variant in VARIANTS if variant.name in options.variants]
    results, found = [], {}
    for number, variant in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)}  {variant.label}", flush=True)
        seed = _seed(options.seed, variant.name)
        with stages(variant.name):
            bench = Bench(options.action, lattice, flow, fields, seed)
            run = _run(variant, bench, options, out / f"{variant.name}.h5")
        found[variant.name] = means(run.observables)
        results.append(_result(variant, run, found[variant.name], truth))
    exact = [found[variant.name] for variant in chosen if variant.exact]
    summary: dict[str, Any] = {
        "format": exactness_table.RESULT.format,
        "dmmc": VERSION,
        "plan": options.describe(),
        "truth": {**about, "observables": _values(truth)},
        "flow": {"steps": flow.total_steps, "evaluations": flow.evaluations, **certificate.summary()},
        "variants": results,
        "agreement": asdict(agreement(exact, truth)) if exact else None,
        "missed": exactness_table.missed(results),
        "wall_seconds": {name: round(seconds, 1) for name, seconds in stages.seconds.items()},
    }
    return _write(out, workflow.plain(summary))


def default_theories(action: Action | None = None) -> dict[str, tuple[Action, tuple[int, ...]]]:
    """What the laboratory looks at unless it is told: 8 x 8 and 16 x 16 near criticality, and two sites, by folder.

    Args:
        action: one theory for all of them.
    """
    near_critical, two_sites = action or Phi4(0.27, 0.022), action or Phi4(0.3, 0.3)
    return {"8x8": (near_critical, (8, 8)), "16x16": (near_critical, (16, 16)), "two-sites": (two_sites, (2,))}


def side_by_side(
    laboratories: Mapping[str, ExactnessOptions], out: str | Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run several laboratories, each in a folder of its own, and put them on one page.

    Args:
        laboratories: what to do, by the folder's name.
        out: the folder of the folders, and of ``report.html``.
        resume: go on where they were interrupted.
        overwrite: remove earlier ones' files first.

    Returns:
        ``laboratories``, the summary of each; their tables as one ``table``; and the ``report``.

    Raises:
        FileError: if there is one of them in ``out``, without ``resume`` or ``overwrite``, or none to resume.
        MismatchError: as :func:`exactness`.
    """
    out = Path(out)
    there = [name for name in laboratories if (out / name / PLAN).exists()]
    if resume and not there:
        raise FileError(f"there is no laboratory to resume in {out}; start it without --resume")
    if there and not (resume or overwrite):
        raise FileError(f"{out / there[0]} holds a laboratory; go on with --resume, choose another --out, or pass "
                        "--overwrite")  # fmt: skip
    found = {}
    for name, options in laboratories.items():
        print(f"{name}:", flush=True)
        found[name] = exactness(options, out / name, resume and name in there, overwrite)
    page.write_report([out / name for name in laboratories], out / "report.html", overwrite=True)
    return {
        "laboratories": found,
        "table": "\n\n\n".join(f"{name}\n\n{summary['table']}" for name, summary in found.items()),
        "report": str(out / "report.html"),
    }


def _clear(out: Path) -> None:
    for name in (*NAMES, "truth", "ensemble"):
        remove_run(out / f"{name}.h5")
    remove_run(out / "model.safetensors")
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)


def _seed(seed: int, name: str) -> int:
    """Of its own for each chain; new variants leave those of the old ones as they are."""
    words = np.random.SeedSequence((seed, *name.encode())).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def _truth(options: ExactnessOptions, out: Path) -> tuple[Means, dict[str, Any]]:
    if options.lattice.volume == 2:
        return quadrature(options.action, options.lattice), {"method": "quadrature", "file": None}
    path, draws = out / "truth.h5", options.truth_draws // options.chains
    print(f"truth: clusters, {draws * options.chains:,} draws", flush=True)
    length = chain.ChainOptions(
        draws, steps_per_draw=TRUTH_EVERY, block=min(64, draws), seed=_seed(options.seed, "truth")
    )
    run = _cluster_run(options, path, length)
    return odd_is_zero(means(run.observables)), {"method": "cluster", "file": path.name}


def _cluster_run(options: ExactnessOptions, path: Path, run: chain.ChainOptions) -> storage.Run:
    if path.exists():
        return storage.load_run(path)
    action, lattice, device = options.action, options.lattice, options.device
    assert isinstance(action, Phi4)
    generator = rng.stream(run.seed, "warm-up")
    kernel = Cluster.default(action, lattice, TRAJECTORY)
    phi = hmc.first_fields(action, lattice, options.chains, generator).to(device)
    tuned, state = cluster.warm_up(kernel, kernel.start(phi), 40, generator)
    chain.run(
        tuned, lambda: _after(tuned, state, 100, generator), run, path, resume=begun(path), device=device
    )  # fmt: skip
    return storage.load_run(path)


def _after(kernel: Kernel, state: State, n: int, generator: torch.Generator) -> State:
    """The state ``n`` steps later."""
    for later, _ in kernel.steps(state, n, generator):
        state = later
    return state


def _model(options: ExactnessOptions, out: Path) -> tuple[DiffusionModel, Tensor]:
    """The model, and fields of the theory: it is trained on them, exact chains begin at them."""
    seed = _seed(options.seed, "ensemble")
    keep = chain.ChainOptions(
        ENSEMBLE_DRAWS, steps_per_draw=ENSEMBLE_EVERY, keep_every=1, block=ENSEMBLE_DRAWS, seed=seed
    )
    run = _cluster_run(options, out / "ensemble.h5", keep)
    # Chains lie one after another in the file; validation must not be on one of them alone.
    phi = torch.as_tensor(run.cfgs())
    phi = phi[torch.randperm(len(phi), generator=torch.Generator().manual_seed(seed))].to(options.device)
    given, path = options.load_model(), out / "model.safetensors"
    if given is not None:
        return given, phi
    if path.exists():
        return DiffusionModel.load(path, device=options.device), phi
    print(f"training, {options.steps} steps", flush=True)
    training = TrainingOptions(steps=options.steps, levels=32, seed=seed)
    model = workflow.train(
        options.action, options.lattice, phi.float(), training, path, size=NETWORK, resume=True, device=options.device
    )
    return model, phi


def _flow(options: ExactnessOptions, model: DiffusionModel) -> tuple[FlowProposal, Certificate]:
    """The flow, with as many steps as the draws need or as were asked for, and its certificate."""
    generator = rng.stream(options.seed, "choice of steps", device=model.device)
    if options.flow_steps is not None:
        flow = FlowProposal(model, options.flow_steps)
        return flow, certify(flow, generator=generator)
    choice = choose_steps(FlowProposal(model, method="dopri5"), options.draws, INTEGRATOR_SHARE, generator=generator)
    return choice.proposal, choice.certificate


def _run(variant: Variant, bench: Bench, options: ExactnessOptions, path: Path) -> storage.Run:
    if path.exists():
        return storage.load_run(path)
    kernel = variant.kernel(bench)
    draws = max(MIN_DRAWS, round(variant.share * options.draws / options.chains))
    generator = rng.stream(bench.seed, "start", device=options.device)

    def start() -> State:
        if isinstance(kernel, Unadjusted):
            return kernel.start_from_proposals(options.chains, generator)
        if isinstance(kernel, Independence) and not variant.exact:
            return _after(kernel, kernel.start_from_proposals(options.chains, generator), BURN_IN_INEXACT, generator)
        return _after(kernel, kernel.start(bench.fields[: options.chains]), BURN_IN, generator)

    run = chain.ChainOptions(draws, block=BLOCK, seed=bench.seed)
    chain.run(kernel, start, run, path, resume=begun(path), device=options.device)
    return storage.load_run(path)


# ---------------------------------------------------------------------------------------------------------
# Results


def _values(found: Means) -> dict[str, dict[str, float]]:
    errors = np.sqrt(np.diag(found.covariance))
    return {
        name: {"value": float(value), "error": float(error)}
        for name, value, error in zip(OBSERVABLES, found.values, errors, strict=True)
    }


def _result(variant: Variant, run: storage.Run, found: Means, truth: Means) -> dict[str, Any]:
    """What is kept of one variant, JSON-ready."""
    bias = found.values - truth.values
    error = np.sqrt(np.diag(found.covariance + truth.covariance))
    z = bias / error
    # <M> is zero by symmetry, so it is measured by <|M|>.
    unit = np.abs(truth.values)
    unit[OBSERVABLES.index("M")] = unit[OBSERVABLES.index("abs_M")]
    worst = int(np.argmax(np.abs(z)))
    tau = workflow.estimates(run)["M2"].tau_int
    together = agreement([found], truth)
    observables = {
        name: {
            **value,
            "bias": float(bias[k]),
            "bias_error": float(error[k]),
            "z": float(z[k]),
            "relative": float(bias[k] / unit[k]),
            "relative_error": float(error[k] / unit[k]),
        }
        for k, (name, value) in enumerate(_values(found).items())
    }
    return {
        "name": variant.name,
        "label": variant.label,
        "exact": variant.exact,
        "why": variant.why,
        "file": run.path.name,
        "chains": run.n_chains,
        "draws": run.n_draws,
        "acceptance": float(run.stats["accepted"].mean()),
        "tau_int_M2": float(tau),
        "evaluations": run.header["evaluations"],
        "observables": observables,
        "agreement": asdict(together),
        "worst": OBSERVABLES[worst],
        "seen": together.sigma >= SEEN,
    }


def _write(out: Path, summary: dict[str, Any]) -> dict[str, Any]:
    text = exactness_table.table(summary)
    summary |= {"table": text, "figures": [str(out / "bias.png")], "report": str(out / "report.html")}
    replace_file(out / "table.txt", lambda path: path.write_text(text + "\n"))
    figures.save(exactness_figures.biases(summary, SEEN), out / "bias.png")
    replace_file(
        out / "exactness.json", lambda path: path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    )
    page.write_report([out], out / "report.html", overwrite=True)
    return summary
