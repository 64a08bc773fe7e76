"""What every reader of a format returns: splits in COCO's terms."""

import itertools
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from co_detr.data.annotations import shorten
from co_detr.data.pictures import UnreadablePicture, picture_size

DIGITS = 3  # of a pixel that are written; label files have no more that mean something

SPLITS = {
    "train": ("train", "training", "obj_train_data"),
    "val": ("val", "valid", "validation", "dev", "obj_valid_data", "obj_validation_data"),
    "test": ("test", "testing", "obj_test_data"),
}
"""Names of folders and files that mean a split."""


@dataclass
class Split:
    """A part of a data set.

    Args:
        name: "train", "val", "test"; "all" where the data do not say.
        source: the annotation file, or the folder of them.
        image_root: what the file names of pictures are relative to.
        content: images, annotations and categories, as in a COCO file.
        is_coco: whether `source` is a file with this content.
        unreadable: pictures whose size is needed and that cannot be opened; not in `content`.
        notes: what was left out or taken to mean something, a sentence each.
        faults: those of the notes that may be more than was meant to be left out.
    """

    name: str
    source: Path
    image_root: Path
    content: dict
    is_coco: bool = False
    unreadable: list[UnreadablePicture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """In the order of the ids."""
        return [c["name"] for c in sorted(self.content["categories"], key=lambda c: c["id"])]


Object: TypeAlias = tuple[str, Sequence[float], Sequence[Sequence[float]] | None]
"""Class name, box x, y, width, height, and None or the polygons of the mask, flat lists x, y, x, y,
...; all in pixels of the upright picture."""


@dataclass
class Labelled:
    """A picture and what is on it."""

    path: Path
    objects: Sequence[Object]


def build_split(
    name: str,
    source: Path,
    pictures: Iterable[Labelled],
    class_names: Sequence[str],
    notes: Sequence[str] = (),
) -> Split:
    """A split from pictures that can be opened; category ids count from 1 in the order of names.

    Raises:
        ValueError: a class has no name, an object no box of finite numbers, or no picture can be
            opened.
    """
    if not all(map(str.strip, class_names)):
        raise ValueError(f"{source}: a class has no name, but spaces alone: give it one")
    pictures = sorted(pictures, key=lambda picture: picture.path)
    paths = [os.path.abspath(picture.path) for picture in pictures]
    root = Path(os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else source)
    ids = {name: number for number, name in enumerate(class_names, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    unreadable: list[UnreadablePicture] = []
    for picture in pictures:
        try:
            height, width = picture_size(picture.path)
        except UnreadablePicture as error:
            unreadable.append(error)
            continue
        file_name = os.path.relpath(os.path.abspath(picture.path), root)
        image = {"id": len(images) + 1, "file_name": Path(file_name).as_posix()}
        images.append({**image, "height": height, "width": width})
        for number, (class_name, box, polygons) in enumerate(picture.objects, start=1):
            if not all(map(math.isfinite, [*box, *itertools.chain(*polygons or ())])):
                raise ValueError(
                    f"{source}: object number {number} of {picture.path.name}, {class_name!r}, has "
                    f"the box {shorten(box)}: its numbers must be finite. Correct or remove it"
                )
            box = [round(float(value), DIGITS) for value in box]
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "iscrowd": 0}
            annotation |= {"category_id": ids[class_name], "bbox": box, "area": box[2] * box[3]}
            if polygons:
                del annotation["area"]  # of the mask; it is computed when the file is read
                annotation["segmentation"] = [[round(v, DIGITS) for v in p] for p in polygons]
            annotations.append(annotation)
    if unreadable and not images:
        raise ValueError(
            f"{source}: none of the {len(unreadable)} pictures of the split {name!r} can be read, "
            f"as with the first: {unreadable[0]}"
        )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return Split(name, source, root, content, unreadable=unreadable, notes=list(notes))


def split_name(path: Path, top: Path) -> str:
    """The split that a path below `top` belongs to, by its innermost telling part; "all" if none
    tells."""
    parts = path.relative_to(top).parts if path.is_relative_to(top) else path.parts
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", Path(part).stem.lower()) + [Path(part).stem.lower()]
        for name, meanings in SPLITS.items():
            if any(word in meanings for word in words):
                return name
    return "all"


def box_of_points(points: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box x, y, width, height round points (x, y)."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def natural_order(names: Iterable[str]) -> list[str]:
    """Names without repetition, "9" before "10"."""

    def parts(name: str) -> list[int | str]:
        return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]

    return sorted(set(names), key=parts)
