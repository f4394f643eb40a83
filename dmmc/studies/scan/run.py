"""The scan itself: every sampler at every point, and what follows from all of them together.

A scan is a folder with ``plan.json``, one folder of files for each point, and the results ``scan.json``, ``scan.nc``,
``table.txt`` and figures. Every chain and every training in it can be interrupted and resumed; what is finished is
read, not computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dmmc.core.files import replace_file
from dmmc.core.records import plain
from dmmc.core.rng import child_seed
from dmmc.core.version import VERSION
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.pages import figures
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.folder import PLAN, open_folder
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan.analysis import autocorrelation_times, common_xi, crossings, point_result, power_laws
from dmmc.studies.scan.netcdf import to_xarray
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import Point, check_points
from dmmc.studies.scan.results import RESULT, PlannedPoint, PointResult, ScanResult
from dmmc.studies.scan.samplers import SAMPLERS, Chains, Task, check_samplers, remove_files
from dmmc.studies.scan.table import table

DRAWS_PER_TAU = 10
"""Each chain is to be this many tau_int long, so that the window of the Gamma method closes within it."""

TABLE, NETCDF = "table.txt", "scan.nc"


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
        out: the folder; what it will hold is said at the head of this module.
        options: what to do at each point.
        resume: go on with a scan that was interrupted, or analyse a finished one again.
        overwrite: remove the files of an earlier scan first.
        say: is told which point and sampler comes next.

    Returns:
        what ``scan.json`` holds.

    Raises:
        FileError: if ``out`` holds a scan, without ``resume`` or ``overwrite``, or there is none to resume.
        MismatchError: if the scan to be resumed has other points or options; the message names them.
        DmmcError: if the points do not make a scan, or a sampler cannot sample one of them.
    """
    options, out = ScanOptions() if options is None else options, Path(out)
    check_points(points, options.along)
    check_samplers(options.samplers, points)
    _open(out, points, options, resume, overwrite)
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
            run = _grown(chains, options)
            file = chains.path.relative_to(out).as_posix()
            results.append(point_result(point, sampler, run, file, chains.training_seconds))
    return _written(out, analysed(points, options, results))


def _plan(points: Sequence[Point], options: ScanOptions) -> dict[str, Any]:
    """What is compared when a scan is resumed."""
    plan = options.to_json()
    if options.steps is not None:
        del plan["minutes"]
    return {"points": plain([PlannedPoint.of(point) for point in points]), **plan}


def _open(out: Path, points: Sequence[Point], options: ScanOptions, resume: bool, overwrite: bool) -> None:
    """Make the folder ready for this plan, or refuse."""

    def remove(stored: dict[str, Any]) -> None:
        for point in stored["points"]:
            folder = out / point["name"]
            remove_files(folder)
            with suppress(OSError):  # it holds files of others
                folder.rmdir()
        for name in (PLAN, TABLE, RESULT.file, NETCDF, *map(_picture, scan_figures.FIGURES)):
            (out / name).unlink(missing_ok=True)

    open_folder(out, _plan(points, options), RESULT.what, resume, overwrite, remove)


def _grown(chains: Chains, options: ScanOptions) -> StoredRun:
    """Chains that are extended until they are long enough for their tau_int.

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
    # By half at least: the estimate wanders a little with every extension.
    blocks = math.ceil(max(needed, 1.5 * run.n_draws) / run.header.block)
    return min(blocks * run.header.block, options.max_draws)


def analysed(points: Sequence[Point], options: ScanOptions, results: Sequence[PointResult]) -> ScanResult:
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


def _picture(name: str) -> str:
    return f"{name}.png"


def _written(out: Path, result: ScanResult) -> ScanResult:
    text = table(result)
    replace_file(out / TABLE, lambda path: path.write_text(text + "\n"))
    data = to_xarray(result)
    replace_file(out / NETCDF, lambda path: data.to_netcdf(path, engine="h5netcdf"))
    for name, figure in scan_figures.draw(result).items():
        figures.save(figure, out / _picture(name))
    RESULT.write(out, result)
    return result


def results_of(out: Path) -> list[Path]:
    """The files with the results of a finished scan, beside the chains and models in the folders of its points."""
    names = (RESULT.file, TABLE, NETCDF, *map(_picture, scan_figures.FIGURES))
    return [out / name for name in names if (out / name).exists()]
