"""Finding pictures in folders."""

import os
from functools import cache
from pathlib import Path

from co_detr.inference.inputs import has_picture_suffix, is_hidden


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and below, in order; hidden files and folders are left out."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:  # links may lead around in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [
            Path(root, name)
            for name in sorted(files)
            if has_picture_suffix(name) and not is_hidden(name)
        ]
    return found


@cache
def pictures_by_name(folder: Path) -> dict[str, Path]:
    """The pictures below a folder, by file name and by file name without suffix, where there is one
    alone of that name."""
    found: dict[str, set[Path]] = {}
    for path in pictures_in(folder):
        for name in {path.name, path.stem}:
            found.setdefault(name, set()).add(path)
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def find_picture(name: str, *folders: Path, top: Path) -> Path:
    """The picture that an annotation names by a path of whatever system.

    Looked for below each of `folders` by as many of the last parts of its path as possible, then by
    its file name, if it is the only one of that name, anywhere below `top`.

    Returns:
        a path below the first folder where there is no such picture, to be reported.
    """
    parts = Path(name.replace("\\", "/")).parts
    for start in range(len(parts)):
        for folder in folders:
            if (candidate := folder.joinpath(*parts[start:])).is_file():
                return candidate
    known = pictures_by_name(top)
    file_name = Path(parts[-1]) if parts else Path(name)
    found = known.get(file_name.name) or known.get(file_name.stem)
    return found or folders[0] / file_name
