"""Where the parts of a run lie: the finished file, and beside it the journal while the run is going."""

from __future__ import annotations

from pathlib import Path

from dmmc.core.errors import FileError
from dmmc.core.files import beside


def journal_of(path: Path) -> Path:
    """The directory that holds the blocks of the run ``path`` until it is finished.

    It lies beside the file itself: where ``path`` is a symbolic link, beside its target.

    Raises:
        FileError: if ``path`` is a directory.
    """
    return beside(path, ".partial")


def manifest_path(journal: Path) -> Path:
    """The file that says what the run of a journal is."""
    return journal / "manifest.json"


def is_begun(path: Path) -> bool:
    """Whether there is anything of the run ``path`` to go on with: the finished file, or a journal."""
    return path.exists() or manifest_path(journal_of(path)).exists()


def block_path(journal: Path, number: int) -> Path:
    """The file of one block of draws."""
    return journal / f"block_{number:06d}.h5"


def block_numbers(journal: Path) -> list[int]:
    """The numbers of the blocks that a journal holds, in order."""
    return sorted(int(path.stem.removeprefix("block_")) for path in journal.glob("block_*.h5"))


def refuse_unfinished(path: Path) -> None:
    """Refuse to read a run of which there is only a journal.

    Raises:
        FileError: if there is no file, but a journal of it.
    """
    journal = journal_of(path)
    if not path.exists() and manifest_path(journal).exists():
        raise FileError(
            f"{path} is not finished: {journal} holds {len(block_numbers(journal))} blocks of it; "
            "run the same command with --resume"
        )
