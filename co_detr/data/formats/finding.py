"""Which format a data set has, by what lies in its folder."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from co_detr.inference.inputs import is_hidden

from . import coco, cvat, label_studio, voc, yolo
from .pictures import pictures_by_name
from .split import Split
from .text import load_yaml

DEPTH = 3  # folders below the data set's that are looked into for annotation files

KNOWN = (
    "COCO (a .json with images and categories), YOLO (data.yaml, or classes.txt beside images and "
    "labels), Pascal VOC (.xml for each picture), CVAT for images (annotations.xml), Label Studio "
    "(its .json)"
)


def read_data(path: str | os.PathLike) -> tuple[str, list[Split]]:
    """The format of a data set, in words, and its splits.

    Args:
        path: the folder, or its annotation file.

    Returns:
        each split once; categories of all of them are the same, unless they are COCO files.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it has no format that is known, or contradicts it; says what to do.
    """
    pictures_by_name.cache_clear()  # there may be other pictures than at the last call
    path = Path(path).expanduser()
    if path.is_file():
        folder, files = path.parent, [path]
    elif path.is_dir():
        folder, files = path, list(files_in(path, DEPTH))
    else:
        raise FileNotFoundError(f"there is no {path}: give the folder of the data set")
    broken: list[str] = []
    for read in READERS:
        kind, splits = read(folder, files, broken)
        if splits:
            return kind, once_each(splits)
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
    raise ValueError(
        f"{path} holds no data set of a known format ({found}{', ...' if found else ''}"
        f"{''.join(f'; {text}' for text in broken)}). Known are: {KNOWN}"
    )


def files_in(folder: Path, depth: int) -> Iterator[Path]:
    """The files of a folder and of those in it, by name, nearer ones first; hidden ones are left
    out."""
    entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries if depth else ():
        if entry.is_dir():
            yield from files_in(entry, depth - 1)


def once_each(splits: list[Split]) -> list[Split]:
    """The splits in the order train, val, test, without those beside that name none.

    Raises:
        ValueError: there are two of a name.
    """
    named = [split for split in splits if split.name != "all"]
    for split in splits:
        if named and split.name == "all":
            named[0].notes.append(
                f"left out {split.source}, which says neither train, val nor test"
            )
    splits = named or splits
    names = [split.name for split in splits]
    if twice := next((name for name in names if names.count(name) > 1), None):
        sources = " and ".join(str(split.source) for split in splits if split.name == twice)
        what = "no split" if twice == "all" else f"the split {twice!r}"
        raise ValueError(
            f"there are several files for {what}: {sources}. Give the one that is meant, or let "
            "their names or folders say train, val and test"
        )
    order = ("train", "val", "test", "all")
    return sorted(splits, key=lambda split: order.index(split.name))


# Each returns no splits where the files are of another format; `broken` gets a sentence for each
# file that might have been of its own.


def _read_yolo(folder: Path, files: list[Path], broken: list[str]) -> tuple[str, list[Split]]:
    for file in files:
        if file.suffix in (".yaml", ".yml"):
            try:
                content = load_yaml(file)
            except ValueError as error:  # it may belong to something else
                broken.append(str(error))
                continue
            if isinstance(content, dict) and {"names", "nc"} & set(content):
                return "YOLO", yolo.read_yaml(file)
    return "", []


def _read_json(folder: Path, files: list[Path], broken: list[str]) -> tuple[str, list[Split]]:
    found: list[Path] = []
    left_out: list[str] = []
    for file in files:
        if file.suffix != ".json":
            continue
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:  # no text, or no JSON
            if len(files) == 1:
                raise ValueError(f"{file} is no JSON file ({error}): export it again") from error
            left_out.append(
                f"left out {file}, which is no JSON file ({error}): export it again, or remove it"
            )
            continue
        if coco.is_coco(content):
            found.append(file)
        elif label_studio.is_export(content):
            return "Label Studio JSON", label_studio.read_file(file, content)
        content = None  # may be gigabytes
    # COCO's own folder has key points and captions beside its objects
    objects = {file for file in found if file.name.startswith("instances_")}
    folders = {file.parent for file in objects}
    chosen = [file for file in found if file in objects or file.parent not in folders]
    splits = [coco.read_file(file, folder) for file in chosen]
    coco.correct_names(splits, folder)
    if splits:
        kept = min(splits, key=lambda split: split.name == "all")  # see `once_each`
        kept.notes.extend(left_out)
        kept.faults.extend(left_out)  # it may have been the file of a split
    broken += left_out
    return "COCO", splits


def _read_xml(folder: Path, files: list[Path], broken: list[str]) -> tuple[str, list[Split]]:
    of_pictures = []
    for file in files:
        if file.suffix != ".xml":
            continue
        root = voc.parse(file)
        if root.tag == "annotations":
            return "CVAT for images", cvat.read_file(file, root)
        if root.tag == "annotation":
            of_pictures.append(file)
    return "Pascal VOC", voc.read_folder(folder, of_pictures) if of_pictures else []


def _read_yolo_folder(
    folder: Path, files: list[Path], broken: list[str]
) -> tuple[str, list[Split]]:
    file = next((file for file in files if file.name in yolo.NAME_FILES), None)
    return "YOLO", [] if file is None else yolo.read_folder(folder, file)


READERS = (_read_yolo, _read_json, _read_xml, _read_yolo_folder)
