"""What an exhibit of the gallery is: the seam between whoever writes one and ``dmmc gallery``.

An exhibit is a module of :mod:`dmmc.gallery` with a constant ``EXHIBIT``, and a line in
:data:`dmmc.gallery.registry.NAMES`::

    def make(request: Request) -> Findings:
        training, test = ensembles.of_phase("symmetric", request)
        run = kept_run(request.folder / "chain.h5", lambda resume: sample(..., resume=resume))
        ...
        return Findings((Drawing("denoising", figure, "What is to be seen."),), table, ("In words.",), {"z": 0.7})

    EXHIBIT = Exhibit("denoising", "From noise to a field", "Wang, Aarts, Zhou (2024), figure 3", 10, make,
                      figures=("denoising",), files=("chain.h5",))

``make`` writes runs and models into its own folder and nothing else. Everything that takes long goes through
:mod:`dmmc.gallery.kept`, so that an interrupted exhibit goes on where it was. Figures are handed over as matplotlib
draws them (:func:`dmmc.pages.figures.make_panels`); :mod:`dmmc.gallery.show` saves them, writes the page and the JSON
file, and remembers that the exhibit is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmmc.core.rng import check_seed, child_seed
from dmmc.studies.remarks import Say, note

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Request:
    """What an exhibit is asked for.

    Attributes:
        folder: the exhibit's own folder, which exists. It may hold finished and unfinished parts of the same request.
        gallery: the folder of all exhibits, in which they share ensembles.
        quick: whether to show in seconds that everything works, on smaller lattices and with shorter chains, in place
            of numbers that mean something.
        seed: seed of all random numbers; see :meth:`child_seed`.
        device: where to compute.
        say: is told in one line what is done next, and what a reader should know.

    Raises:
        DmmcError: if the seed is out of its range.
    """

    folder: Path
    gallery: Path
    quick: bool = False
    seed: int = 1
    device: str = "cpu"
    say: Say = field(default_factory=lambda: note)  # a function as a class attribute would be a method

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def child_seed(self, *name: str | int) -> int:
        """The seed of a part, such as a chain, that shares its random numbers with no other part of any exhibit."""
        return child_seed(self.seed, "gallery", self.folder.name, *name)


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: the file is ``<name>.png``; one of the names in :attr:`Exhibit.figures`.
        figure: as :func:`dmmc.pages.figures.make_panels` made it.
        caption: how to read it, in whole sentences.
    """

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Findings:
    """What an exhibit has found.

    Attributes:
        drawings: its figures, in the order in which they are shown.
        table: a short table for a terminal, with aligned columns; empty for none.
        text: what is to be learned from it, one plain sentence or more each, with numbers and their errors.
        numbers: the numbers behind figures and text, as JSON values (:func:`dmmc.core.records.plain` makes them of
            dataclasses, and null of numbers that are not finite).
    """

    drawings: tuple[Drawing, ...]
    table: str = ""
    text: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exhibit:
    """A system or a figure of the literature, made anew.

    Attributes:
        name: what it is called on the command line, the name of its module with ``-`` for ``_``, and of its folder.
        title: what it shows, in a line.
        source: the paper, and the number of the figure or the equation.
        minutes: roughly how long it takes on 2 cores, ensembles included.
        make: makes it.
        figures: names of all figures that it may draw, without ``.png``.
        files: all other files that it may write, relative to its folder, such as ``chain.h5``; those of them that were
            not written are no error. ``--overwrite`` removes these files and no others.
    """

    name: str
    title: str
    source: str
    minutes: float
    make: Callable[[Request], Findings]
    figures: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
