"""A finished run as users hold it: its data, and everything that can be done with them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from dmmc.diagnostics.means import OfMeans
from dmmc.runs.run import StoredRun
from dmmc.runs.run import load_run as load_stored_run
from dmmc.runs.summary import summarise
from dmmc.runs.summary_records import RunSummary


class Run(StoredRun):
    """A finished run: its arrays, its summary, and the ways out to ArviZ, to pyerrors and to a page with figures."""

    @classmethod
    def of(cls, stored: StoredRun) -> Self:
        """The same run with the methods of this class."""
        return cls(**{field.name: getattr(stored, field.name) for field in fields(stored)})

    def discarding(self, n: int) -> Self:
        return type(self).of(super().discarding(n))

    def deriving(self, functions: Mapping[str, OfMeans]) -> Self:
        return type(self).of(super().deriving(functions))

    def summary(self) -> RunSummary:
        """Every observable with its error and autocorrelation time, acceptance, weights and the bound on the bias."""
        return summarise(self)

    def to_arviz(self) -> Any:
        """The run as ArviZ's ``InferenceData`` (before version 1) or ``DataTree`` (since); see
        :func:`dmmc.interop.arviz.to_arviz`."""
        from dmmc.interop.arviz import to_arviz

        return to_arviz(self)

    def to_pyerrors(self, ensemble: str | None = None) -> Any:
        """The observables as ``pyerrors.Obs``; see :func:`dmmc.interop.pyerrors.to_pyerrors`."""
        from dmmc.interop.pyerrors import to_pyerrors

        return to_pyerrors(self, ensemble)

    def report(
        self,
        out: str | Path,
        beside: Sequence[StoredRun | str | Path] = (),
        *,
        reference: str | None = None,
        title: str | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write one self-contained HTML page about this run: verdicts, numbers, figures, provenance.

        Args:
            out: the HTML file.
            beside: other runs of the same action and lattice that are shown beside it.
            reference: the run that the others are compared with: its label, such as ``HMC``, or its file.
            title: of the page.
            overwrite: whether to replace an earlier page.

        Returns:
            the path of the page.

        Raises:
            FileError: if ``out`` is in the way or cannot be made.
            MismatchError: if the runs are of different lattices or actions.
        """
        from dmmc.studies.reporting import write_report

        write_report([self, *beside], out, reference=reference, title=title, derived=self.derived, overwrite=overwrite)
        return Path(out)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.summary()._repr_html_()}"


def load_run(path: str | Path) -> Run:
    """Read a finished run and verify every array of it but the configurations.

    Raises:
        FileError: if the file is missing, unfinished, foreign, truncated or damaged; the message says which.
    """
    return Run.of(load_stored_run(path))
