"""Splits of any format as COCO files, which training and evaluation read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from co_detr.engine.files import whole_file

from .split import Split


@dataclass
class Written:
    """A split as training reads it.

    Args:
        split: what was read.
        json_file: in COCO format; the source itself where that could be used as it is.
    """

    split: Split
    json_file: Path


def write_splits(
    splits: Sequence[Split], folder: Path, *, overwrite: bool = False
) -> list[Written]:
    """Write the splits that are not COCO files of their own to `folder`, as `<split>.json`.

    Raises:
        FileExistsError: there is such a file, and `overwrite` is not set; nothing is written then.
    """
    paths = [folder / f"{split.name}.json" for split in splits if not split.is_coco]
    if taken := [path for path in paths if path.exists() and not overwrite]:
        raise FileExistsError(f"there is a {taken[0]} already: --overwrite replaces it")
    written = []
    for split in splits:
        path = split.source
        if not split.is_coco:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{split.name}.json"
            with whole_file(str(path)) as file:
                json.dump(split.content, file)
        written.append(Written(split, path))
    return written


def same_classes(splits: Sequence[Split]) -> list[Split]:
    """Splits with the same categories in one order, that of the first one, then those it lacks.

    A model knows a class by its place in the order of ids, so files that were exported one by one
    do not fit together without it.
    """
    names = [split.class_names for split in splits]
    if all(n == names[0] for n in names) or any(len(set(n)) < len(n) for n in names):
        return list(splits)
    every = list(dict.fromkeys(name for n in names for name in n))
    ids = {name: number for number, name in enumerate(every, start=1)}
    result = []
    for split in splits:
        name_of = {c["id"]: c["name"] for c in split.content["categories"]}
        annotations = [
            {**a, "category_id": ids[name_of[a["category_id"]]]}
            for a in split.content.get("annotations", ())
        ]
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        content = {**split.content, "categories": categories, "annotations": annotations}
        note = "categories were numbered anew, as those of the splits differ"
        notes = [*split.notes, note]
        result.append(replace(split, content=content, is_coco=False, notes=notes))
    return result


def divide(split: Split, share: float) -> tuple[Split, Split]:
    """Divide a split into one to train on and one to validate on.

    Which picture goes where is a function of its file name alone, so that it stays the same when
    others are added.

    Args:
        split: divided.
        share: of the pictures that are validated on, 0 to 1; at least one of them is.
    """
    images = sorted(split.content["images"], key=lambda image: _rank(image["file_name"]))
    count = min(max(1, round(len(images) * share)), len(images) - 1)
    parts = []
    for name, chosen in (("train", images[count:]), ("val", images[:count])):
        ids = {image["id"] for image in chosen}
        annotations = [a for a in split.content.get("annotations", ()) if a["image_id"] in ids]
        chosen = sorted(chosen, key=lambda image: image["file_name"])
        content = {**split.content, "images": chosen, "annotations": annotations}
        parts.append(replace(split, name=name, content=content, is_coco=False))
    parts[1].unreadable, parts[1].notes, parts[1].faults = [], [], []  # once is enough
    return parts[0], parts[1]


def _rank(file_name: str) -> bytes:
    return hashlib.blake2b(file_name.encode(), digest_size=8).digest()
