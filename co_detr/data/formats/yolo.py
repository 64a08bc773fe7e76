"""YOLO labels: a text file per picture, a line per object, in shares of width and height.

A line is "class x y width height", the centre of the box first, perhaps with a score or a track
behind; or "class x1 y1 x2 y2 ...", a polygon, by which oriented boxes are written, too; or a box
and keypoints, where `kpt_shape` of data.yaml says how many.
"""

import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from co_detr.data.pictures import UnreadablePicture, picture_size

from .pictures import Named, find_pictures, pictures_in
from .split import Labelled, Object, Split, box_of_points, build_split, split_name
from .text import load_yaml, read_text

KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
MOST_CLASSES = 100_000  # more are a slip of the pen, and would fill the memory with names
NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")


def read_yaml(file: Path) -> list[Split]:
    """The splits of a `data.yaml` as Ultralytics, Roboflow and CVAT write it.

    Raises:
        ValueError: the file lacks names or pictures, or a label is none; names the place.
    """
    settings = load_settings(file)
    names = class_names(settings, file)
    values = keypoint_values(settings, file)
    named: list[Named] = []
    each_once: dict[str, dict[str, Path]] = {}
    for split, keys in KEYS.items():
        entries = next((settings[key] for key in keys if settings.get(key)), None)
        if entries is None:
            continue
        each_once[split] = {}
        for entry in entries if isinstance(entries, list) else [entries]:
            named += pictures_of(entry, split, settings, file)
    if not each_once:
        raise ValueError(f"{file} names no pictures: add `train: images/train`, a folder")
    for picture, path in zip(named, find_pictures(named, file.parent)):
        each_once[picture.split].setdefault(os.path.abspath(path), path)
    return [
        build_split(
            split, file, [read_labels(path, names, values) for path in paths.values()], names
        )
        for split, paths in each_once.items()
    ]


def read_folder(folder: Path, names_file: Path) -> list[Split]:
    """The splits of a folder without data.yaml, with the names of classes in a text file: Label
    Studio's export, and CVAT's "YOLO 1.1"."""
    names = [line.strip() for line in read_text(names_file).splitlines() if line.strip()]
    groups: dict[str, list[Labelled]] = {}
    for path in pictures_in(folder):
        groups.setdefault(split_name(path.parent, folder), []).append(read_labels(path, names))
    if not groups:
        raise ValueError(f"{folder} has {names_file.name} for YOLO labels, but no pictures")
    return [build_split(name, folder, labelled, names) for name, labelled in groups.items()]


def load_settings(file: Path) -> dict[str, Any]:
    """The content of a `data.yaml`.

    Raises:
        ValueError: the file is no YAML, or holds no settings.
    """
    settings = load_yaml(file)
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is no data set: it needs `train`, `val` and `names`")
    return settings


def class_names(settings: dict[str, Any], file: Path) -> list[str]:
    """The names of the classes 0, 1, ...; numbered where there is only `nc`.

    Raises:
        ValueError: there are none, or one is neither text nor a number.
    """
    names = settings.get("names")
    if isinstance(names, dict):
        try:
            numbered = {int(key): name for key, name in names.items()}
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{file}: the keys of `names` must be 0, 1, 2, ...") from None
        if numbered and not 0 <= min(numbered) <= max(numbered) < MOST_CLASSES:
            raise ValueError(
                f"{file}: `names` has the keys {min(numbered)} to {max(numbered)}, which must be "
                f"numbers of classes, from 0 to {MOST_CLASSES - 1}"
            )
        names = [numbered.get(i, f"class {i}") for i in range(max(numbered, default=-1) + 1)]
    if isinstance(names, list) and names:
        return [text_of(name, "names", file) for name in names]
    count = settings.get("nc")
    if isinstance(count, int) and 0 < count <= MOST_CLASSES:
        return [f"class {i}" for i in range(count)]
    raise ValueError(f"{file} has no `names` of classes: add them, in order")


def text_of(value: Any, key: str, file: Path) -> str:
    """A name in data.yaml, which may look like a number there.

    Raises:
        ValueError: it is neither text nor a number. Of lists not even the text is made: by YAML's
            references, a short file writes one whose text fills the memory.
    """
    if not isinstance(value, str | int | float | bool):
        raise ValueError(
            f"{file}: `{key}` has a value of the type {type(value).__name__}: write a text, in "
            "quotes"
        )
    return str(value)


def keypoint_values(settings: dict[str, Any], file: Path) -> int:
    """How many numbers the keypoints of an object are; 0 where objects have none."""
    shape = settings.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)):
        raise ValueError(
            f"{file}: kpt_shape is {reprlib.repr(shape):.80}: it must be [points, 2] or [.., 3]"
        )
    return shape[0] * shape[1]


def pictures_of(entry: Any, split: str, settings: dict[str, Any], file: Path) -> list[Named]:
    """The pictures of a folder, or of a text file that lists them, which data.yaml names for a
    split.

    Raises:
        FileNotFoundError: neither is where it can be meant; lists the places.
        ValueError: the name is none.
    """
    entry = text_of(entry, "train, val or test", file)
    base = file.parent
    path = base / text_of(settings.get("path") or "", "path", file)
    # Roboflow's "../train/images" is meant without the dots
    plain = entry.removeprefix("../")
    places = [path / entry, base / entry, base / plain]
    for place in places:
        if place.is_dir():
            names = (str(path.relative_to(place)) for path in pictures_in(place))
            return [Named(name, (place,), split) for name in names]
        if place.is_file():
            lines = read_text(place).split("\n")
            roots = (place.parent, base, path)
            names = (line.strip() for line in lines)
            return [Named(name, roots, split) for name in names if name]
    raise FileNotFoundError(
        f"{file} names {entry}, but there is no "
        f"{' and no '.join(map(str, dict.fromkeys(places)))}: correct `path` in it"
    )


def label_file(picture: Path) -> Path:
    """Where the labels of a picture are: in `labels` for the last folder `images`, or beside."""
    parts = list(picture.with_suffix(".txt").parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
        if (path := Path(*parts)).is_file():
            return path
    return picture.with_suffix(".txt")


def read_labels(picture: Path, names: list[str], keypoint_values: int = 0) -> Labelled:
    """A picture with the objects of its label file; with none where there is no file."""
    file = label_file(picture)
    if not file.is_file():
        return Labelled(picture, [])
    try:
        height, width = picture_size(picture)
    except UnreadablePicture:
        return Labelled(picture, [])  # reported where all pictures are opened
    return Labelled(picture, list(objects_in(file, names, height, width, keypoint_values)))


def objects_in(
    file: Path, names: list[str], height: int, width: int, keypoint_values: int
) -> Iterator[Object]:
    """Class name, box and polygons of each line; see `Labelled`."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{file}, line {number}: {line.strip()[:60]!r}"
        try:
            label, *values = map(float, words)
        except ValueError:
            raise ValueError(f"{where} is no label: it must be numbers alone") from None
        if label not in range(len(names)):
            raise ValueError(
                f"{where} is of class {words[0]}, but there are {len(names)}, from 0: correct it, "
                "or the names"
            )
        name = names[int(label)]
        if len(values) in (4, 5, 4 + keypoint_values):
            x, y, w, h = values[:4]
            yield name, ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height), None
        elif len(values) >= 6 and len(values) % 2 == 0:
            points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2])]
            yield name, box_of_points(points), [[v for point in points for v in point]]
        else:
            raise ValueError(
                f"{where} has {len(values)} numbers behind the class: a box has 4, a polygon an "
                "even number from 6 on"
            )
