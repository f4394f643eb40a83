"""Makes an exhibit in a folder: its figures, a page, and its numbers as JSON.

In the folder of the gallery every exhibit has a folder of its own, with ``plan.json``, which says for which seed and
size it is. What is finished is read: a second request of the same exhibit goes on where the first was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmmc.core.errors import DmmcError
from dmmc.core.files import replace_file
from dmmc.core.records import Record, json_text, plain
from dmmc.core.version import VERSION
from dmmc.gallery.exhibit import Exhibit, Findings, Request
from dmmc.pages import figures
from dmmc.pages.page import render
from dmmc.pages.section import Section, fill
from dmmc.pages.svg import FULL, page_style, picture
from dmmc.studies.folder import Folder, Result, stored_plan

PAGE = "page.html"


@dataclass(frozen=True)
class ShownFigure:
    """A figure of a finished exhibit.

    Attributes:
        file: its PNG file, relative to the folder of the exhibit.
        caption: how to read it.
    """

    file: str
    caption: str


@dataclass(frozen=True)
class Shown(Record):
    """A finished exhibit; what ``result.json`` holds.

    Attributes:
        dmmc: version that made it.
        name: of the exhibit.
        title: what it shows.
        source: the paper and its figure.
        command: the command that makes it, without the folder.
        quick: whether it is only to show that everything works.
        seed: seed of all random numbers.
        figures: its figures.
        table: a table as text; empty for none.
        findings: what is to be learned from it.
        numbers: the numbers behind it.
    """

    dmmc: str
    name: str
    title: str
    source: str
    command: str
    quick: bool
    seed: int
    figures: tuple[ShownFigure, ...]
    table: str
    findings: tuple[str, ...]
    numbers: dict[str, Any]

    def __str__(self) -> str:
        head = f"{self.title} [{self.source}]"
        return "\n\n".join(filter(None, (head, self.table, "\n".join(self.findings))))


RESULT = Result("result.json", "dmmc-exhibit", "exhibit", Shown)


def show(exhibit: Exhibit, request: Request, overwrite: bool = False) -> Shown:
    """Make an exhibit, or read it if it is finished.

    Args:
        exhibit: the exhibit.
        request: what is asked for; its folder is made if need be.
        overwrite: begin afresh; ensembles that exhibits share are kept.

    Raises:
        FileError: if other files are in the way and ``overwrite`` is not set, or the folder is that of something else.
        MismatchError: if the folder holds the exhibit with another seed or size.
        DmmcError: if what the exhibit has found cannot be written.
    """
    goes_on = check(exhibit, request, overwrite)
    _folder(exhibit, request).open(goes_on, overwrite, lambda _: None)
    if goes_on and RESULT.is_at(request.folder):
        request.say(f"{request.folder} is finished; --overwrite makes it anew")
        return RESULT.read(request.folder)
    request.say(f"{exhibit.name}: what is done is kept in {request.folder}, and the same command goes on from there")
    shown = _write(exhibit, request, exhibit.make(request))
    RESULT.write(request.folder, shown)
    return shown


def check(exhibit: Exhibit, request: Request, overwrite: bool = False) -> bool:
    """Refuse a folder in which an exhibit cannot be made, before any work is done; returns whether it goes on.

    Raises:
        FileError, MismatchError: as :func:`show`.
    """
    goes_on = stored_plan(request.folder) is not None and not overwrite
    _folder(exhibit, request).check(goes_on, overwrite)
    return goes_on


def files_of(exhibit: Exhibit) -> list[str]:
    """The names of all files that an exhibit may write, relative to its folder, ``plan.json`` aside."""
    return [*map(_picture, exhibit.figures), *exhibit.files, RESULT.file, PAGE]


def _folder(exhibit: Exhibit, request: Request) -> Folder:
    plan = {"exhibit": exhibit.name, "quick": request.quick, "seed": request.seed}
    return Folder(request.folder, RESULT.what, plan, lambda _: files_of(exhibit))


def _picture(name: str) -> str:
    return f"{name}.png"


def _write(exhibit: Exhibit, request: Request, findings: Findings) -> Shown:
    """Write the figures and the page."""
    undeclared = sorted({drawing.name for drawing in findings.drawings} - set(exhibit.figures))
    if undeclared:
        raise DmmcError(f"the exhibit {exhibit.name} draws {', '.join(undeclared)}, which its figures do not name")
    numbers = plain(dict(findings.numbers))
    json_text(numbers, f"the numbers of the exhibit {exhibit.name}")
    for drawing in findings.drawings:
        figures.save(drawing.figure, request.folder / _picture(drawing.name))
    shown = Shown(
        dmmc=VERSION,
        name=exhibit.name,
        title=exhibit.title,
        source=exhibit.source,
        command=f"dmmc gallery {exhibit.name}{' --quick' if request.quick else ''} --seed {request.seed}",
        quick=request.quick,
        seed=request.seed,
        figures=tuple(ShownFigure(_picture(drawing.name), drawing.caption) for drawing in findings.drawings),
        table=findings.table,
        findings=findings.text,
        numbers=numbers,
    )
    with page_style():
        pictures = [
            picture(drawing.name, drawing.figure, f"{exhibit.title}: {drawing.name}.", drawing.caption, FULL)
            for drawing in findings.drawings
        ]
    body = fill("dmmc.gallery", "exhibit.html", shown=shown, pictures=pictures)
    section = Section(exhibit.name, exhibit.title, exhibit.title, body, tuple(x.name for x in pictures))
    html = render([], sections=[section]).html
    replace_file(request.folder / PAGE, lambda path: path.write_text(html, encoding="utf-8"))
    return shown
