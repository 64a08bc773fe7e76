"""Finding pictures in folders."""

import os
from functools import cache
from pathlib import Path

from co_detr.inference.inputs import picture_suffixes


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and below, in order; hidden folders are left out."""
    suffixes = picture_suffixes()
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:  # links may lead around in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(root, name)
            for name in sorted(files)
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        ]
    return found


@cache
def pictures_by_name(folder: Path) -> dict[str, Path]:
    """The pictures below a folder, by file name and by file name without suffix."""
    found = pictures_in(folder)
    return {path.stem: path for path in found} | {path.name: path for path in found}


def find_picture(name: str, *folders: Path, top: Path) -> Path:
    """The picture that an annotation names by a path of whatever system.

    Looked for by its path below each of `folders`, then by its file name anywhere below `top`.

    Returns:
        a path below the first folder where there is no such picture, to be reported.
    """
    path = Path(name.replace("\\", "/"))
    for folder in folders:
        for candidate in (folder / path, folder / path.name):
            if candidate.is_file():
                return candidate
    known = pictures_by_name(top)
    return known.get(path.name) or known.get(path.stem) or folders[0] / path.name
