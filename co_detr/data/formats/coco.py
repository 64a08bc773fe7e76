"""COCO's JSON, in the folders that people and tools put it in."""

import os
from collections.abc import Sequence
from pathlib import Path

from co_detr.data.annotations import read_annotations

from .pictures import Named, find_pictures
from .split import Split, split_name

LOOKED_AT = 20  # pictures by which their folder is found


def is_coco(content: object) -> bool:
    return isinstance(content, dict) and {"images", "categories"} <= set(content)


def read_file(file: Path, top: Path) -> Split:
    """The split of a file, and the folder of its pictures.

    Args:
        file: below `top`; tells the split by its name or folder.
        top: the folder of the data set.

    Raises:
        ValueError: the file has a fault that has no one meaning.
    """
    annotations = read_annotations(str(file))
    names = [image["file_name"] for image in annotations.images]
    root = image_root(file, names, top)
    split = Split(split_name(file, top), file, root, annotations.content, is_coco=True)
    split.notes.extend(annotations.notes)
    drop_umbrella_category(split)
    return split


def image_root(file: Path, names: list[str], top: Path) -> Path:
    """The folder that most of the first pictures lie in by their names; that of the file if none
    does."""
    folder, stem = file.parent, file.stem.removeprefix("instances_")
    around = (folder, folder.parent) if folder.parent.is_relative_to(top) else (folder,)
    kinds = ("", "images", stem, f"images/{stem}", split_name(file, top))
    candidates = list(dict.fromkeys(base / kind for base in around for kind in kinds))
    counts = [sum((c / name).is_file() for name in names[:LOOKED_AT]) for c in candidates]
    return candidates[counts.index(max(counts))]


def drop_umbrella_category(split: Split) -> None:
    """Leave the category out that Roboflow adds as the parent of all others, without objects."""
    categories = split.content["categories"]
    used = {a["category_id"] for a in split.content.get("annotations", ())}
    parents = {str(c.get("supercategory")) for c in categories}
    umbrella = [c for c in categories if c["name"] in parents and c["id"] not in used]
    if len(umbrella) == 1 and len(categories) > 1 and parents <= {umbrella[0]["name"], "none"}:
        rest = [c for c in categories if c is not umbrella[0]]
        split.content = {**split.content, "categories": rest}
        split.is_coco = False
        split.notes.append(f"left out the category {umbrella[0]['name']!r}, parent of all others")


def correct_names(splits: Sequence[Split], top: Path) -> None:
    """Correct the names of pictures that lie elsewhere below `top`, as after an export from a
    machine with other folders.

    Args:
        splits: all of the data set, as one may name what another one misses.
        top: the folder of the data set.
    """
    named = [
        Named(image["file_name"], (split.image_root,), split.name)
        for split in splits
        for image in split.content["images"]
    ]
    found = iter(find_pictures(named, top))
    for split in splits:
        images, moved = [], 0
        for image, path in zip(split.content["images"], found):
            if path != split.image_root / image["file_name"] and path.is_file():
                image = {**image, "file_name": os.path.relpath(path, split.image_root)}
                moved += 1
            images.append(image)
        if moved:
            split.content = {**split.content, "images": images}
            split.is_coco = False
            split.notes.append(f"{moved} pictures were found in other folders than the file says")
