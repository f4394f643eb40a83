"""The figures of the gallery in the documentation, from a gallery that ``dmmc gallery`` has made.

    dmmc gallery --all --out gallery
    python docs/make_gallery.py gallery docs/figures/gallery

Every figure of a finished exhibit becomes ``<exhibit>-<figure>.png``, with few colours, which is a third of the size.
What an exhibit has found is printed, with the command that made it, since the text quotes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from dmmc.core.files import replace_file
from dmmc.gallery.registry import NAMES
from dmmc.gallery.show import RESULT


def make(gallery: Path, out: Path) -> None:
    """Copy the figures of all finished exhibits."""
    out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        if not RESULT.is_at(gallery / name):
            print(f"{name} is not in {gallery}")
            continue
        shown = RESULT.read(gallery / name)
        print(f"\n{shown.command}\n{shown}")
        for figure in shown.figures:
            shrink(gallery / name / figure.file, out / f"{name}-{figure.file}")


def shrink(source: Path, target: Path) -> None:
    """Copy a picture with a palette of few colours."""
    with Image.open(source) as picture:
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    replace_file(target, lambda path: small.save(path, "PNG", optimize=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Copy the figures of a gallery into the documentation.")
    parser.add_argument("gallery", type=Path, help="folder of the gallery")
    parser.add_argument("out", type=Path, help="folder of the figures")
    arguments = parser.parse_args()
    make(arguments.gallery, arguments.out)
