"""The scan itself: every sampler at every point, and what follows from all of them together.

A scan is a folder with ``plan.json``, one folder of files for each point, and the results ``scan.json``, ``scan.nc``,
``table.txt`` and figures. Every chain and every training in it can be interrupted and resumed; what is finished is
read, not computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmmc.core.files import replace_file
from dmmc.core.records import plain
from dmmc.core.rng import child_seed
from dmmc.core.version import VERSION
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.pages import figures
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.folder import Folder, present
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan.analysis import autocorrelation_times, common_xi, crossings, point_result, power_laws
from dmmc.studies.scan.netcdf import to_xarray
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import Point, check_points
from dmmc.studies.scan.results import RESULT, PlannedPoint, PointResult, ScanResult
from dmmc.studies.scan.samplers import SAMPLERS, Chains, Task, check_samplers
from dmmc.studies.scan.table import table

DRAWS_PER_TAU = 10
"""Each chain is to be this many tau_int long, so that the window of the Gamma method closes within it."""

TABLE, NETCDF = "table.txt", "scan.nc"


def _picture(name: str) -> str:
    return f"{name}.png"


RESULTS = (RESULT.file, TABLE, NETCDF, *map(_picture, scan_figures.FIGURES))
"""The files with the results of a scan, as far as it has them."""


def show(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)


def scan(
    points: Sequence[Point],
    out: str | Path,
    options: ScanOptions | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = show,
) -> ScanResult:
    """Run a scan.

    Args:
        points: the points, in this order; training starts from the model of an earlier point of the same sectors.
        out: the folder for ``plan.json``, the results, and a folder of chains and models for each point.
        options: what to do at each point.
        resume: go on with a scan that was interrupted, or analyse a finished one again; where nothing was saved, begin
            afresh.
        overwrite: remove the files of an earlier scan, or others in the way, first.
        say: is told which point and sampler comes next.

    Returns:
        what ``scan.json`` holds.

    Raises:
        FileError: if ``out`` holds a scan or other files in the way, and neither ``resume`` nor ``overwrite`` is set.
        MismatchError: if the scan to be resumed has other points or options; the message names them.
        DmmcError: if the points do not make a scan, or a sampler cannot sample one of them.
    """
    options, out = ScanOptions() if options is None else options, Path(out)
    check_points(points, options.along)
    check_samplers(options.samplers, points)
    Folder(out, RESULT.what, _plan(points, options), files_of).open(resume, overwrite)
    results: list[PointResult] = []
    models: dict[int, DiffusionModel] = {}
    total = len(points) * len(options.samplers)
    for point in points:
        folder = out / point.name
        folder.mkdir(exist_ok=True)
        for sampler in options.samplers:
            say(f"{len(results) + 1}/{total}  {point.name}  {sampler}")
            # Common random numbers would correlate neighbouring points.
            seed = child_seed(options.seed, "scan", point.name, sampler)
            chains = SAMPLERS[sampler].prepare(Task(point, options, folder, seed, models))
            run = _long_enough(chains, options)
            file = chains.path.relative_to(out).as_posix()
            results.append(point_result(point, sampler, run, file, chains.training_seconds))
    result = analyse(points, options, results)
    _write(out, result)
    return result


def _plan(points: Sequence[Point], options: ScanOptions) -> dict[str, Any]:
    """What is compared when a scan is resumed."""
    plan = options.to_json()
    if options.steps is not None:
        del plan["minutes"]
    return {"points": plain([PlannedPoint.of(point) for point in points]), **plan}


def files_of(plan: Mapping[str, Any]) -> list[str]:
    """The names of all files that a scan with this plan writes, relative to its folder."""
    folders = [point["name"] for point in plan.get("points", ())]
    of_points = [f"{folder}/{name}" for folder in folders for sampler in SAMPLERS.values() for name in sampler.files]
    return [*of_points, *RESULTS]


def _long_enough(chains: Chains, options: ScanOptions) -> StoredRun:
    """The chains, extended until they are long enough for their tau_int.

    How far they are extended depends only on what is in the file, so that a scan that was interrupted comes to the
    same end.
    """
    run: StoredRun = load_run(chains.path) if chains.path.exists() else chains.begin()
    while (draws := _draws_needed(run, options)) > run.n_draws:
        run = chains.begin(draws)
    return run


def _draws_needed(run: StoredRun, options: ScanOptions) -> int:
    """Draws that each chain should have, as far as its present draws can tell."""
    taus = (estimate.tau_int for estimate, _ in autocorrelation_times(run).values())
    tau = max((tau for tau in taus if math.isfinite(tau)), default=0.0)
    needed = max(options.lengths * tau / run.n_chains, DRAWS_PER_TAU * tau)
    if needed <= run.n_draws:
        return run.n_draws
    # Chains are extended by half at least, since the estimate changes a little with every extension.
    blocks = math.ceil(max(needed, 1.5 * run.n_draws) / run.header.block)
    return min(blocks * run.header.block, options.max_draws)


def analyse(points: Sequence[Point], options: ScanOptions, results: Sequence[PointResult]) -> ScanResult:
    """The results of all points and samplers, with what follows from them together."""
    fits, notes = power_laws(results, options.along)
    crossed, missing = crossings(results, options.seed) if options.along == "kappa" else ((), ())
    return ScanResult(
        dmmc=VERSION,
        points=tuple(PlannedPoint.of(point) for point in points),
        options=options,
        xi=common_xi(results),
        results=tuple(results),
        fits=fits,
        crossings=crossed,
        notes=notes + missing,
    )


def _write(out: Path, result: ScanResult) -> None:
    text = table(result) + "\n"
    replace_file(out / TABLE, lambda path: path.write_text(text, encoding="utf-8"))
    data = to_xarray(result)
    replace_file(out / NETCDF, lambda path: data.to_netcdf(path, engine="h5netcdf"))
    for name, figure in scan_figures.draw(result).items():
        figures.save(figure, out / _picture(name))
    RESULT.write(out, result)


def results_of(out: Path) -> list[Path]:
    """The files with the results of a finished scan, beside the chains and models in the folders of its points."""
    return [out / name for name in present(out, RESULTS)]
