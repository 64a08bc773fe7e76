"""Finding pictures in folders."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

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


class Named(NamedTuple):
    """A picture as an annotation names it.

    Args:
        name: its path, of whatever system.
        folders: where the path may begin, the likeliest first.
        split: that the annotation belongs to.
    """

    name: str
    folders: Sequence[Path]
    split: str = "all"


def find_pictures(named: Sequence[Named], top: Path) -> list[Path]:
    """The pictures that the annotations of a data set name.

    Each is looked for below its folders by as many of the last parts of its path as possible, then
    by its file name, if it is the only one of that name, anywhere below `top`. Numbers for names
    begin anew in each folder, so what is found by a part of its path is not taken where it is the
    picture of another name, too.

    Returns:
        for each, in order, its path; where there is no such picture, that below its first folder,
        to be reported.
    """
    found = [_look_up(each, top) for each in named]
    places = ["" if path is None else os.path.abspath(path) for path, _ in found]
    # those of no split are left out beside others, see `once_each`
    counts_all = all(each.split == "all" for each in named)
    names: dict[str, set[str | None]] = {}
    for each, place, (_, by_whole) in zip(named, places, found):
        if counts_all or each.split != "all":
            names.setdefault(place, set()).add(None if by_whole else each.name)
    return [
        (
            path
            if path is not None and (by_whole or names.get(place, set()) <= {each.name})
            else each.folders[0] / _plain(each.name)
        )
        for each, place, (path, by_whole) in zip(named, places, found)
    ]


def find_picture(name: str, *folders: Path, top: Path) -> Path:
    """`find_pictures` for a picture alone, of no split."""
    return find_pictures([Named(name, folders)], top)[0]


def _look_up(each: Named, top: Path) -> tuple[Path | None, bool]:
    """The picture of a name, and whether all of its path led there."""
    for folder in each.folders:
        if os.path.isfile(candidate := folder / each.name):
            return candidate, True
    parts = Path(_plain(each.name)).parts
    for start in range(len(parts)):
        for folder in each.folders:
            if os.path.isfile(candidate := folder.joinpath(*parts[start:])):
                return candidate, start == 0
    if not parts:
        return None, False
    known = pictures_by_name(top)
    return known.get(parts[-1]) or known.get(Path(parts[-1]).stem), False


def _plain(name: str) -> str:
    return name.replace("\\", "/")
