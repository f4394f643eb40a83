"""Copy the figures of finished exhibits of the gallery, with few colours, to where the documentation shows them.

    dmmc gallery --all --out gallery
    python docs/gallery_figures.py gallery docs/gallery

Each exhibit that is finished in the first folder has a folder of its name in the second.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from make_figures import shrink

from dmmc.gallery.registry import NAMES
from dmmc.gallery.show import RESULT


def copy(gallery: Path, out: Path) -> None:
    """Copy the figures of each finished exhibit into a folder of its name in ``out``."""
    for name in NAMES:
        if not RESULT.is_at(gallery / name):
            continue
        (out / name).mkdir(parents=True, exist_ok=True)
        for figure in RESULT.read(gallery / name).figures:
            shrink(gallery / name / figure.file, out / name / figure.file)
            print(out / name / figure.file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy the figures of the gallery into the documentation.")
    parser.add_argument("gallery", type=Path, help="folder of the gallery, as dmmc gallery makes it")
    parser.add_argument("out", type=Path, help="folder of the figures in the documentation")
    options = parser.parse_args()
    copy(options.gallery, options.out)


if __name__ == "__main__":
    main()
