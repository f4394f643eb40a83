"""A run beside the run of another sampler, as a table for a terminal."""

from __future__ import annotations

from pathlib import Path

from dmmc.pages.comparable import named, sharing
from dmmc.pages.table import comparison
from dmmc.runs.run import StoredRun, load_run, stored_header
from dmmc.runs.summary import estimates


def beside_reference(run: StoredRun, reference: str | Path) -> str:
    """Every observable of a run and of the run that was its reference, and their difference in standard errors.

    Args:
        run: the run.
        reference: the file of the reference.

    Returns:
        the table; empty if the reference holds fields alone, which say nothing about errors. In place of the table,
        a note if the two share their random numbers, so that the error of a difference is not known.

    Raises:
        FileError: if the reference cannot be read.
        DmmcError: if the two are the same run.
    """
    if stored_header(reference) is None:
        return ""
    runs = named([load_run(reference), run])
    if problem := sharing(runs):
        return f"note: {problem}"
    return comparison({name: estimates(of_run) for name, of_run in runs.items()}, next(iter(runs)))
