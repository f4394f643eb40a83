"""The page about whatever is named: run files, models, folders of scans and of exactness laboratories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import check_place, replace_file
from dmmc.diagnostics.means import OfMeans
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import is_tensor_file
from dmmc.pages import figures
from dmmc.pages.page import ReportSummary, render
from dmmc.pages.section import Section, training_section
from dmmc.pages.svg import FULL, page_style, picture
from dmmc.pages.wording import extent, seconds
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.exactness import section as exactness_section
from dmmc.studies.exactness.results import RESULT as LABORATORY
from dmmc.studies.folder import PLAN, stored_plan
from dmmc.studies.scan import section as scan_section
from dmmc.studies.scan.results import RESULT as SCAN

MODEL_SUFFIX = ".safetensors"


def write_report(
    inputs: Sequence[StoredRun | str | Path],
    out: str | Path,
    *,
    reference: str | None = None,
    title: str | None = None,
    discard: int | None = None,
    derived: Mapping[str, OfMeans] | None = None,
    overwrite: bool = False,
) -> ReportSummary:
    """Write a page about runs and studies; it appears complete or not at all.

    Args:
        inputs: runs or run files, all of one lattice and action; model files; folders of scans (or their
            ``scan.json``) and of exactness laboratories (or their ``exactness.json``).
        out: the HTML file.
        reference: the run that the others are compared with: its label, such as ``HMC``, or its file. None takes the
            first run whose kernel works without a trained model.
        title: heading of the page; None makes one.
        discard: how many draws to leave out at the beginning of each chain.
        derived: functions of means by name that every run is to show, see
            :meth:`dmmc.runs.run.StoredRun.deriving`.
        overwrite: replace an earlier page.

    Returns:
        what the page holds.

    Raises:
        FileError: if an input is missing, unfinished, foreign or damaged, or ``out`` is in the way or cannot be made.
        MismatchError: if the runs are of different lattices or actions.
        DmmcError: if there is no input, an input is named twice, two runs share their random numbers, there is no such
            reference, ``discard`` leaves nothing of a run, or a run has not recorded what a derived observable needs.
    """
    out = Path(out)
    if out.is_dir():
        raise FileError(f"{out} is a directory; name a file in it")
    if out.exists() and not overwrite:
        raise FileError(f"{out} exists; choose another --out, or pass --overwrite")
    if not out.absolute().parent.is_dir():
        raise FileError(f"there is no directory {out.parent}; make it first")
    check_place(out)
    runs, sections = _read([one if isinstance(one, StoredRun) else Path(one) for one in inputs], discard)
    runs = [run.deriving(derived or {}) for run in runs]
    page = render(runs, sections=sections, reference=reference, title=title)
    # A file name need not be text; what is not is shown as a character that no font has.
    replace_file(out, lambda path: path.write_text(page.html, encoding="utf-8", errors="xmlcharrefreplace"))
    return replace(page.summary, path=str(out))


def _read(inputs: Sequence[StoredRun | Path], discard: int | None) -> tuple[list[StoredRun], list[Section]]:
    """The runs, and the sections about everything else in the order in which it was named."""
    paths = [one.path if isinstance(one, StoredRun) else one for one in inputs]
    twice = [str(path) for k, path in enumerate(paths) if path.absolute() in map(Path.absolute, paths[:k])]
    if twice:
        raise DmmcError(f"{twice[0]} is named twice; name it once")
    runs: list[StoredRun] = []
    sections: list[Section] = []
    for one, path in zip(inputs, paths, strict=True):
        id_ = f"section-{len(sections) + 1}"
        if isinstance(one, StoredRun):
            runs.append(one if discard is None else one.discarding(discard))
        elif LABORATORY.is_at(path):
            sections.append(exactness_section.section(path, id_))
        elif path.is_dir() and not SCAN.is_at(path):
            raise FileError(_no_result(path))
        elif SCAN.is_at(path) or path.suffix == ".json":
            sections.append(scan_section.section(path, id_))
        elif path.suffix == MODEL_SUFFIX or is_tensor_file(path):
            sections.append(model_section(DiffusionModel.load(path), path.stem, id_))
        else:
            run = load_run(path)
            runs.append(run if discard is None else run.discarding(discard))
    return runs, sections


def _no_result(folder: Path) -> str:
    """What is wrong with a folder that does not hold the result of a study."""
    plan = stored_plan(folder)
    if plan is not None:
        return f"the {plan['kind']} in {folder} is not finished; run the same command with --resume"
    within = sorted(path.name for path in folder.iterdir() if (path / PLAN).exists())
    if within:
        return f"{folder} is no study itself; name the folders in it: {', '.join(within)}"
    return f"{folder} holds neither a scan nor an exactness laboratory; name run files or model files themselves"


def model_section(model: DiffusionModel, name: str, id_: str) -> Section:
    """The section about the training of a model.

    Args:
        model: the model.
        name: what to call it.
        id_: identifies the section within the page.

    Raises:
        DmmcError: if the model holds no record of its training.
    """
    history = model.history
    if history is None:
        raise DmmcError(f"{name} was never trained; there is nothing to show")
    drawn = []
    if history.curve:
        with page_style():
            drawn.append(
                picture(
                    f"{id_}-loss",
                    figures.training_loss({name: history.curve}),
                    f"Validation loss of {name} against the steps of training.",
                    "The loss on fields that were held out, less the loss of the Gaussian reference alone: how much of "
                    "the Kullback-Leibler divergence between reference and target the network has removed. A curve "
                    "that is still falling at its end calls for more steps.",
                    width=FULL,
                    height=3.6,
                )
            )
    rounds = () if history.rounds is None else history.rounds.records
    if rounds:
        with page_style():
            drawn.append(
                picture(
                    f"{id_}-rounds",
                    figures.learning_curve({name: rounds}),
                    f"Effective sample size and acceptance of the proposals of {name}, round by round.",
                    "How good the proposals were after so many rounds of training on the model's own chain. Open "
                    "symbols are of rounds on the way to the action, weighed with what lies in between; the last point "
                    "is the finished model.",
                    width=FULL,
                    height=3.2,
                )
            )
    settings = [
        ("lattice", extent(model.lattice.shape)),
        ("steps", f"{history.steps:,}"),
        ("wall time", seconds(history.seconds)),
        ("training ensemble", f"{history.ensemble:,} fields"),
    ]
    if history.rounds is not None and rounds:
        settings += [
            ("rounds on its own chain", f"{len(history.rounds.trained):,}"),
            ("ESS per proposal", f"{rounds[-1].ess:.3f}"),
            ("acceptance", f"{rounds[-1].acceptance:.3f}"),
        ]
    settings += [("remark", remark) for remark in model.remarks]
    return training_section(id_, name, drawn, settings)
