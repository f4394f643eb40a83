"""Samplers over many lattice sizes or couplings: critical slowing down, costs, and where the transition is.

A scan is a folder: ``plan.json``, a folder of files for each point, and the results ``scan.json``, ``scan.nc``,
``table.txt`` and figures. Every chain and every training in it can be interrupted and resumed; what is finished is
read, not computed again.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.core.files import replace_file
from dmmc.core.version import VERSION
from dmmc.diagnostics import DiagnosticsWarning, Estimate
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.diagnostics.slowing_down import binder_crossings, cost_per_effective_sample, fit_power_law
from dmmc.kernels.hmc import LENGTH
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.training import TrainingOptions
from dmmc.report import figures
from dmmc.runs import chain, storage
from dmmc.studies import workflow
from dmmc.studies.folder import begun, open_folder, remove_run
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan import table as scan_table
from dmmc.studies.scan.table import TAUS
from dmmc.theory import symmetry as sectors
from dmmc.theory.actions import Action, Phi4
from dmmc.theory.lattice import Lattice

SAMPLERS = ("hmc", "diffusion", "cluster")

FLOW_BENCHMARK = {6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 20: 4.807, 32: 4.572, 64: 4.398}
"""L -> lam_m at m2 = -4 in two dimensions, where xi = L/4 (Albergo et al. 1904.12072, Gerdes et al. 2207.00283)."""

ENOUGH_FOR_TAU = 200
"""A chain of fewer tau_int than this does not measure tau_int (to 30 %, Wolff, hep-lat/0306017, Eq. 42)."""

DRAWS_PER_TAU = 10
"""Each chain is to be this many tau_int long, so that the window of the Gamma method closes within it."""

WIDE = 4.0
"""At fixed L, points with ``L < WIDE xi`` are not fitted: there L and not xi sets the slowest mode."""

BLOCK, DIFFUSION_BLOCK = 64, 16
TRAINING_CHAINS, TRAINING_DRAWS, TRAINING_KEEP_EVERY = 256, 96, 8
"""The ensemble that a model is trained on: 3072 fields."""

FILES = ("hmc.h5", "cluster.h5", "ensemble.h5", "model.safetensors", "diffusion.h5")
RESULTS = ("plan.json", "table.txt", "scan.json", "scan.nc")


@dataclass(frozen=True)
class Point:
    """One theory on one lattice.

    Attributes:
        name: of its folder.
        action: the theory.
        shape: the lattice.
        line: what a curve through points has in common; power laws are fitted along it.
    """

    name: str
    action: Action
    shape: tuple[int, ...]
    line: str

    @property
    def L(self) -> int:
        """The longest extent."""
        return max(self.shape)


def flow_benchmark(sizes: Sequence[int]) -> tuple[Point, ...]:
    """Two-dimensional phi^4 at fixed ``xi = L/4``: m2 = -4, lam_m by :data:`FLOW_BENCHMARK`.

    Raises:
        DmmcError: for sizes that are not in that table, or none.
    """
    unknown = sorted(set(sizes) - set(FLOW_BENCHMARK))
    if unknown or not sizes:
        raise DmmcError(
            f"the flow benchmark has the sizes {', '.join(map(str, FLOW_BENCHMARK))}, not {unknown}; "
            "choose of these, or give the action (--kappa and --lam, ...)"
        )
    return tuple(
        Point(f"L{L}", Phi4.from_mass(-4.0, FLOW_BENCHMARK[L], 2), (L, L), "flow benchmark") for L in sorted(set(sizes))
    )


def grid(actions: Mapping[str, Action], sizes: Sequence[int], dim: int, along: str) -> tuple[Point, ...]:
    """Every action on every ``L^dim``.

    Args:
        actions: by name, such as ``kappa0.27``.
        sizes: lattice sizes L, 2 at least.
        dim: dimensions, 1 to 4.
        along: ``L``: a line is one action over the sizes; ``kappa``: one size over the actions.

    Raises:
        DmmcError: if there is no action or no size, or one is out of its range.
    """
    if not actions or not sizes or min(sizes) < 2:
        raise DmmcError(f"a scan needs an action and lattice sizes of 2 at least, got sizes {list(sizes)}")
    if dim not in (1, 2, 3, 4):
        raise DmmcError(f"--dim must be 1, 2, 3 or 4, got {dim}")
    return tuple(
        Point(f"{name}_L{L}", action, (L,) * dim, name if along == "L" else f"L{L}")
        for name, action in actions.items()
        for L in sorted(set(sizes))
    )


@dataclass(frozen=True)
class ScanOptions:
    """What a scan does.

    Attributes:
        points: in this order; training starts from an earlier point's model, if there is one of the same sectors.
        along: ``L`` or ``kappa``, what changes along a line of points.
        samplers: of :data:`SAMPLERS`.
        minutes: training budget of each model.
        steps: training budget in optimiser steps instead, for a reproducible scan.
        chains: parallel chains of each sampler.
        draws: of each HMC and cluster chain to begin with; they are extended until all together they are ``lengths``
            tau_int long and each of them :data:`DRAWS_PER_TAU`.
        diffusion_draws: the same of each diffusion chain.
        max_draws: where extension ends.
        flow_steps: integration steps of the probability flow; None for the default.
        lengths: see ``draws``; tau_int has a relative error of about ``4 / sqrt(lengths)``.
        trajectory: length of the trajectories of the sampler hmc, in the units of :meth:`dmmc.kernels.hmc.HMC.default`.
            A power law asks for the same length at all points, short against xi: the customary 1. About
            :data:`dmmc.kernels.hmc.LENGTH` is cheaper.
        thermalise: steps thrown away; None for 200, of HMC ``L^2`` where that is more.
        seed: of everything.
        device: where.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work.
    """

    points: tuple[Point, ...]
    along: str = "L"
    samplers: tuple[str, ...] = SAMPLERS
    minutes: float | None = 1.0
    steps: int | None = None
    chains: int = 64
    draws: int = 512
    diffusion_draws: int = 64
    max_draws: int = 16384
    flow_steps: int | None = None
    lengths: float = 2000.0
    trajectory: float = 1.0
    thermalise: int | None = None
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.points:
            raise DmmcError("a scan needs points")
        names = [point.name for point in self.points]
        if len(set(names)) < len(names):
            raise DmmcError(f"two points of the scan have the same name: {', '.join(names)}")
        if self.along not in ("L", "kappa"):
            raise DmmcError(f"a scan goes along L or kappa, not {self.along!r}")
        unknown = sorted(set(self.samplers) - set(SAMPLERS))
        if not self.samplers or unknown or len(set(self.samplers)) < len(self.samplers):
            raise DmmcError(f"samplers must be different ones of {', '.join(SAMPLERS)}, got {list(self.samplers)}")
        if "cluster" in self.samplers and not all(isinstance(point.action, Phi4) for point in self.points):
            raise DmmcError("cluster updates are for phi^4 only; leave out the sampler cluster")
        if min([self.chains, *(x for x in (self.thermalise, self.flow_steps) if x is not None)]) < 1:
            raise DmmcError("chains, thermalise and flow_steps must be positive")
        if min(self.draws, self.diffusion_draws) < MIN_DRAWS:
            raise DmmcError(f"chains need {MIN_DRAWS} draws at least, for errors to be estimated")
        first = max(self.draws, self.diffusion_draws)
        if self.max_draws < first:
            raise DmmcError(f"max_draws must be at least {first}, which chains begin with; got {self.max_draws}")
        if not 0 < self.lengths < math.inf:
            raise DmmcError(f"lengths must be positive, got {self.lengths}")
        if not 0 < self.trajectory < math.inf:
            raise DmmcError(f"the trajectory length must be a positive number, got {self.trajectory}")
        if not 0 <= self.seed < 2**63:
            raise DmmcError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        _ = self.training(0)

    def training(self, seed: int) -> TrainingOptions:
        """The training budget: ``steps`` if they are given, else ``minutes``."""
        return TrainingOptions(steps=self.steps, minutes=self.minutes if self.steps is None else None, seed=seed)

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity of the scan, compared on resumption."""
        points = [
            {"name": point.name, "action": point.action.describe(), "lattice": list(point.shape), "line": point.line}
            for point in self.points
        ]
        training = {"steps": self.steps} if self.steps is not None else {"minutes": self.minutes}
        rest = {name: value for name, value in asdict(self).items() if name not in ("points", "minutes", "steps")}
        return {"points": points, **training, **rest, "samplers": list(self.samplers)}


def scan(options: ScanOptions, out: str | Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Run a scan.

    Args:
        options: what to do.
        out: the folder; see the head of this module.
        resume: go on with a scan that was interrupted, or analyse a finished one again.
        overwrite: remove an earlier scan's files first.

    Returns:
        The content of ``scan.json``: ``plan``; ``xi`` of each point, as :func:`common_xi`; ``results``, one a point
        and sampler (null stands for what is not known); ``fits``, as :func:`power_laws`; ``crossings``, as
        :func:`crossings`; ``notes``; and the table and the paths of the netCDF file and the figures.

    Raises:
        FileError: if ``out`` holds a scan, without ``resume`` or ``overwrite``, or there is none to resume.
        MismatchError: if the scan to be resumed has other options; the message names them.
    """
    out = Path(out)
    _open(out, options.describe(), resume, overwrite)
    results: list[dict[str, Any]] = []
    models: dict[int, DiffusionModel] = {}
    todo = len(options.points) * len(options.samplers)
    for number, point in enumerate(options.points):
        for sampler in options.samplers:
            print(f"{len(results) + 1}/{todo}  {point.name}  {sampler}", flush=True)
            folder, seed = out / point.name, _seed(options.seed, number, sampler)
            folder.mkdir(exist_ok=True)
            if sampler == "diffusion":
                # Begin at the same size with the couplings before; with new sizes, at the size before.
                before = models.get(point.L, next(reversed(models.values()), None))
                run, model = _diffusion(point, options, folder, seed, before)
                models[point.L] = model
                results.append(_result(point, sampler, run, model.history.seconds if model.history else 0.0))
            else:
                path, first = folder / f"{sampler}.h5", chain.ChainOptions(options.draws, block=BLOCK, seed=seed)
                run = _grown(path, first, options, partial(_baseline, point, sampler, options.chains, options, path))
                results.append(_result(point, sampler, run))
    return _write(out, options, results)


def _open(out: Path, plan: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Make the folder ready for this plan, or refuse."""

    def remove(stored: dict[str, Any]) -> None:
        for point in stored["points"]:
            _remove(out / point["name"])
        for name in (*RESULTS, *(f"{name}.png" for name in scan_figures.FIGURES)):
            (out / name).unlink(missing_ok=True)

    open_folder(out, plan, "scan", resume, overwrite, remove)


def _remove(folder: Path) -> None:
    for name in FILES:
        remove_run(folder / name)
    with suppress(OSError):  # there are files of others in it
        folder.rmdir()


def _seed(seed: int, point: int, sampler: str) -> int:
    """Of its own for each chain of the scan: common random numbers would correlate neighbouring points."""
    (word,) = np.random.SeedSequence((seed, point, SAMPLERS.index(sampler))).generate_state(1, np.uint64)
    return int(word) >> 1


def _baseline(
    point: Point, method: str, chains: int, options: ScanOptions, path: Path, run: chain.ChainOptions, resume: bool
) -> storage.Run:
    # The slowest mode of HMC forgets its start in O(L^2) trajectories, if xi grows with L.
    default, length = (max(200, point.L**2), options.trajectory) if method == "hmc" else (200, LENGTH)
    ensemble = workflow.EnsembleOptions(method, chains, options.thermalise or default, run, length)
    return workflow.make_ensemble(
        point.action, Lattice(point.shape), ensemble, path, resume=resume, device=options.device
    )


def _diffusion(
    point: Point, options: ScanOptions, folder: Path, seed: int, before: DiffusionModel | None
) -> tuple[storage.Run, DiffusionModel]:
    """The diffusion chain of a point and its model, trained on an ensemble of its own, from the model ``before``."""
    lattice, path = Lattice(point.shape), folder / "model.safetensors"
    if path.exists():
        model = DiffusionModel.load(path, device=options.device)
        model.check_fits(point.action, lattice)
    else:
        source = folder / "ensemble.h5"
        if not source.exists():
            # Clusters decorrelate best, where there are any.
            method = "cluster" if isinstance(point.action, Phi4) else "hmc"
            keep = chain.ChainOptions(TRAINING_DRAWS, keep_every=TRAINING_KEEP_EVERY, block=BLOCK, seed=seed)
            _baseline(point, method, TRAINING_CHAINS, options, source, keep, begun(source))
        phi = torch.as_tensor(storage.load_fields(source, point.shape), dtype=torch.float32)
        # Chains lie one after another in the file; validation must not be on one of them alone.
        phi = phi[torch.randperm(len(phi), generator=torch.Generator().manual_seed(seed))]
        init = before if before is not None and before.two_sector == sectors.is_broken(phi) else None
        model = workflow.train(
            point.action, lattice, phi, options.training(seed), path, init=init, resume=True, device=options.device
        )

    def sample(run: chain.ChainOptions, resume: bool) -> storage.Run:
        return workflow.sample(
            model, point.action, options.chains, run, folder / "diffusion.h5", n_steps=options.flow_steps, resume=resume
        )

    first = chain.ChainOptions(options.diffusion_draws, block=DIFFUSION_BLOCK, seed=seed)
    return _grown(folder / "diffusion.h5", first, options, sample), model


def _grown(
    path: Path, first: chain.ChainOptions, options: ScanOptions, go: Callable[[chain.ChainOptions, bool], storage.Run]
) -> storage.Run:
    """Chains that are extended until they are long enough for their tau_int.

    How far they are extended depends on what is in the file alone, so a scan that was interrupted comes to the same.
    """
    run = storage.load_run(path) if path.exists() else go(first, begun(path))
    while (draws := _target(run, options)) > run.n_draws:
        run = go(replace(first, draws=draws), True)
    return run


def _target(run: storage.Run, options: ScanOptions) -> int:
    """Draws that each chain should have, as far as these draws can tell."""
    # In the broken phase the sign of M may hardly ever change, which no length of chain would measure.
    taus = [tau.tau_int for name, (tau, _) in _taus(run).items() if name != "M"]
    tau = max(filter(math.isfinite, taus), default=0.0)
    needed = max(options.lengths * tau / run.n_chains, DRAWS_PER_TAU * tau)
    if needed <= run.n_draws:
        return run.n_draws
    # By half at least: the estimate wanders a little with every extension.
    blocks = math.ceil(max(needed, 1.5 * run.n_draws) / run.header["block"])
    return min(blocks * run.header["block"], options.max_draws)


def _taus(run: storage.Run) -> dict[str, tuple[Estimate, bool]]:
    """Of each of :data:`TAUS` the estimate, and whether its tau_int is one or a lower bound."""
    found = {name: figures.resolved_tau(run.observables[name]) for name in TAUS}
    return {name: (x, bool(resolved and x.n >= ENOUGH_FOR_TAU * x.tau_int)) for name, (x, resolved) in found.items()}


def _result(point: Point, sampler: str, run: storage.Run, training_seconds: float | None = None) -> dict[str, Any]:
    """What a scan keeps of one run, JSON-ready."""

    def pair(value: float, error: float) -> dict[str, float]:
        return {"value": value, "error": error}

    taus = _taus(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # every step accepted: a constant series
        acceptance = diagnostics.gamma_method(run.stats["accepted"])
    tau, draws = taus["M2"][0], run.summary["wall_draws"]
    # A process that only assembled a file, after an interruption, has no record of the time that its draws took.
    seconds = run.summary["wall_seconds"]["chain"] / (draws * run.n_chains) if draws else math.nan
    per_draw = {"seconds": seconds, **run.header["evaluations"]}
    kappa = {"kappa": point.action.kappa, "lam": point.action.lam} if isinstance(point.action, Phi4) else {}
    short = [name for name, (_, resolved) in taus.items() if not resolved]
    result = {
        "point": point.name,
        "line": point.line,
        "lattice": point.shape,
        "L": point.L,
        **kappa,
        "action": point.action.describe(),
        "sampler": sampler,
        "file": str(run.path),
        "chains": run.n_chains,
        "draws": run.n_draws,
        "acceptance": pair(acceptance.value, 0.0 if math.isnan(acceptance.error) else acceptance.error),
        **{name: pair(x.value, x.error) for name, x in workflow.estimates(run).items()},
        "tau_int": {name: pair(x.tau_int, x.tau_int_error) | {"resolved": ok} for name, (x, ok) in taus.items()},
        "cost": {
            kind: pair(*cost_per_effective_sample(tau.tau_int, tau.tau_int_error, cost))
            for kind, cost in per_draw.items()
        },
        "training_seconds": training_seconds,
        "verdict": f"too short for tau_int of {', '.join(short)}, lower bounds only" if short else "good",
    }
    return dict(workflow.plain(result))


# ---------------------------------------------------------------------------------------------------------
# Analysis


def common_xi(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The correlation length of each point, and its error, from one sampler: cluster, else HMC, else diffusion.

    All samplers are exact, so the one that measures best serves for all; its errors are independent of those of
    another sampler's tau_int.
    """
    found: dict[str, tuple[float, float]] = {}
    for sampler in ("cluster", "hmc", "diffusion"):
        for result in results:
            xi = result.get("xi", {"value": None, "error": None})
            if result["sampler"] == sampler and None not in xi.values():
                found.setdefault(result["point"], (xi["value"], xi["error"]))
    return found


def power_laws(results: Sequence[Mapping[str, Any]], along: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Fits ``tau_int = c xi^z`` and, along L, ``c L^z``: one a line, sampler and observable.

    Args:
        results: as in ``scan.json``.
        along: ``L`` or ``kappa``.

    Returns:
        The fits, each a dict of ``sampler``, ``line``, ``observable``, ``against`` (``xi`` or ``L``), ``points`` (the
        names of those that were fitted) and the attributes of
        :class:`~dmmc.diagnostics.slowing_down.PowerLaw`; and what could not be fitted, in words.
    """
    xi, fits, notes = common_xi(results), [], []
    for sampler, line in dict.fromkeys((result["sampler"], result["line"]) for result in results):
        of_line = [result for result in results if (result["sampler"], result["line"]) == (sampler, line)]
        few: list[str] = []
        for name in TAUS:
            usable = [
                result for result in of_line
                if result["tau_int"][name]["resolved"] and result["point"] in xi and xi[result["point"]][0] > 0
                and (along == "L" or result["L"] >= WIDE * xi[result["point"]][0])
            ]  # fmt: skip
            tau, error = (np.array([result["tau_int"][name][key] for result in usable]) for key in ("value", "error"))
            x, dx = np.array([xi[result["point"]] for result in usable]).reshape(-1, 2).T
            sizes = np.array([float(result["L"]) for result in usable])
            if len(usable) < 2:
                few.append(name)
                continue
            for against, scale, scale_error in (("xi", x, dx), ("L", sizes, 0 * sizes))[: 2 if along == "L" else 1]:
                what = f"tau_int of {name} against {against}, {sampler}, {line}"
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", DiagnosticsWarning)  # two points; the note below says it once
                        law = fit_power_law(scale, tau, error, scale_error, what)
                except DmmcError as reason:
                    notes.append(f"no power law: {reason}")
                    continue
                place = {"sampler": sampler, "line": line, "observable": name, "against": against}
                points = [result["point"] for result in usable]
                fits.append(workflow.plain({**place, "points": points, **asdict(law)}))
        if few and len(of_line) > 1:
            where = "" if along == "L" else f" at L >= {WIDE:g} xi"
            notes.append(f"no power law of {', '.join(few)}, {sampler}, {line}: fewer than two tau_int measured{where}")
    if any(fit["dof"] == 0 for fit in fits):
        notes.append("a power law goes through any two points: without a third nothing tests it")
    return fits, notes


def crossings(results: Sequence[Mapping[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Binder crossings of each sampler, of two sizes or more at the same two kappa or more.

    Returns:
        The crossings, each a dict of ``sampler`` and the attributes of
        :class:`~dmmc.diagnostics.slowing_down.BinderCrossings`; and what could not be found, in words.
    """
    found, notes = [], []
    for sampler in dict.fromkeys(result["sampler"] for result in results):
        U = {
            (result["L"], result["kappa"]): (result["binder"]["value"], result["binder"]["error"])
            for result in results
            if result["sampler"] == sampler and None not in result["binder"].values()
        }
        sizes = sorted({L for L, _ in U})
        kappa = sorted({k for _, k in U if all((L, k) in U for L in sizes)})
        if len(sizes) < 2 or len(kappa) < 2:
            notes.append(f"no Binder crossing of {sampler}: that takes two sizes at the same two kappa, or more")
            continue
        table = np.array([[U[L, k] for k in kappa] for L in sizes])
        try:
            with warnings.catch_warnings(record=True) as doubts:
                warnings.simplefilter("always", DiagnosticsWarning)
                made = binder_crossings(sizes, kappa, table[..., 0], table[..., 1], np.random.default_rng(seed))
        except DmmcError as reason:
            notes.append(f"no Binder crossing of {sampler}: {reason}")
            continue
        notes += [f"{sampler}: {doubt.message}" for doubt in doubts]
        found.append(workflow.plain({"sampler": sampler, **asdict(made)}))
    return found, notes


# ---------------------------------------------------------------------------------------------------------
# Results


def _write(out: Path, options: ScanOptions, results: list[dict[str, Any]]) -> dict[str, Any]:
    fits, notes = power_laws(results, options.along)
    crossed, missed = crossings(results, options.seed) if options.along == "kappa" else ([], [])
    summary: dict[str, Any] = {
        "format": scan_table.RESULT.format,
        "dmmc": VERSION,
        "plan": options.describe(),
        "along": options.along,
        "xi": {point: {"value": value, "error": error} for point, (value, error) in common_xi(results).items()},
        "results": results,
        "fits": fits,
        "crossings": crossed,
        "notes": notes + missed,
    }
    text = scan_table.table(summary)
    replace_file(out / "table.txt", lambda path: path.write_text(text + "\n"))
    data = to_xarray(summary)
    replace_file(out / "scan.nc", lambda path: data.to_netcdf(path, engine="h5netcdf"))
    drawn = []
    for name, figure in scan_figures.draw(summary).items():
        figures.save(figure, out / f"{name}.png")
        drawn.append(str(out / f"{name}.png"))
    summary |= {"table": text, "netcdf": str(out / "scan.nc"), "figures": drawn}
    replace_file(out / "scan.json", lambda path: path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n"))
    return summary


def _entry(result: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        result = result.get(key, {})
    return None if result == {} else result


def to_xarray(summary: Mapping[str, Any]) -> xr.Dataset:
    """The results as arrays ``(sampler, point)``, nan where there is nothing; fits and plan as JSON attributes.

    Args:
        summary: as in ``scan.json``.
    """
    results = summary["results"]
    samplers, points = (list(dict.fromkeys(result[key] for result in results)) for key in ("sampler", "point"))
    by_place = {(result["sampler"], result["point"]): result for result in results}
    first = {point: next(result for result in results if result["point"] == point) for point in points}

    variables: dict[str, Any] = {}

    def add(name: str, meaning: str, units: str, *keys: str, dtype: type = np.float64) -> None:
        rows = [[_entry(by_place[sampler, point], keys) for point in points] for sampler in samplers]
        data: Any = np.array([[math.nan if x is None else x for x in row] for row in rows], dtype=dtype)
        variables[name] = (("sampler", "point"), data, {"long_name": meaning, "units": units})

    def add_pair(name: str, meaning: str, units: str, *keys: str) -> None:
        add(name, meaning, units, *keys, "value")
        add(f"{name}_error", f"standard error of {meaning}", units, *keys, "error")

    add_pair("xi", "second-moment correlation length", "lattice spacings", "xi")
    add_pair("binder", "Binder cumulant 1 - <M^4> / (3 <M^2>^2)", "1", "binder")
    add_pair("acceptance", "mean acceptance", "1", "acceptance")
    for name in TAUS:
        add_pair(f"tau_int_{name}", f"tau_int of {name}, 0.5 for a white series", "draws", "tau_int", name)
        meaning = f"1 where tau_int_{name} was measured, 0 where it is a lower bound"
        add(f"tau_int_{name}_resolved", meaning, "1", "tau_int", name, "resolved", dtype=np.int8)
    for kind in dict.fromkeys(kind for result in results for kind in result["cost"]):
        units = "s" if kind == "seconds" else f"{kind} evaluations"
        add_pair(
            f"cost_{kind}", "cost of an effective sample of M^2, 2 tau_int draws of one chain", units, "cost", kind
        )
    for name in ("chains", "draws"):
        add(f"n_{name}", f"number of {name}", "1", name, dtype=np.int64)

    about = {
        "L": ("longest extent of the lattice", "lattice spacings"),
        "line": ("line of points along which power laws are fitted", "1"),
        "kappa": ("hopping parameter", "1"),
        "lam": ("quartic coupling of the hopping form", "1"),
    }
    coords: dict[str, Any] = {"sampler": samplers, "point": points}
    for name, (meaning, units) in about.items():
        if all(name in result for result in results):
            coords[name] = ("point", [first[point][name] for point in points], {"long_name": meaning, "units": units})
    attrs = {
        "title": f"dmmc scan along {summary['along']}",
        "creation_library": "dmmc",
        "creation_library_version": summary["dmmc"],
        **{name: json.dumps(summary[name]) for name in ("plan", "fits", "crossings", "notes")},
    }
    return xr.Dataset(variables, coords, attrs)
