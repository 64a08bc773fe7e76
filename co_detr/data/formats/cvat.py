"""CVAT's own XML, "CVAT for images": one file for all pictures."""

import math
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from .pictures import Named, find_pictures
from .split import Labelled, Object, Split, box_of_points, build_split, natural_order, split_name

BOX_EDGES = ("xtl", "ytl", "xbr", "ybr")
SHAPES = ("box", "polygon", "mask", "ellipse")  # have an extent; lines and points have none


def read_file(file: Path, root: ElementTree.Element) -> list[Split]:
    """The splits of a file, by the subsets that its pictures belong to.

    Args:
        file: whose folder has the pictures, most often in `images`.
        root: the file's content.
    """
    groups: dict[str, list[Labelled]] = {}
    left_out: Counter[str] = Counter()
    images = list(root.iter("image"))
    named = [picture_of(file, image) for image in images]
    for image, picture, path in zip(images, named, find_pictures(named, file.parent)):
        objects: list[Object] = []
        for shape in image:
            if shape.tag in SHAPES:
                objects.append((shape.get("label", "").strip(), *extent(file, shape)))
            else:
                left_out[shape.tag] += 1
        groups.setdefault(picture.split, []).append(Labelled(path, objects))
    declared = [(label.findtext("name") or "").strip() for label in root.iter("label")]
    used = [name for group in groups.values() for picture in group for name, *_ in picture.objects]
    names = list(dict.fromkeys(filter(None, declared))) if declared else natural_order(used)
    names += [name for name in natural_order(used) if name not in names]
    notes = [f"left out {n} shapes of the kind {kind!r}" for kind, n in left_out.items()]
    return [build_split(name, file, group, names, notes) for name, group in groups.items()]


def picture_of(file: Path, image: ElementTree.Element) -> Named:
    """The picture of an entry, and the split of its subset or folder."""
    name = image.get("name", "")
    split = split_name(Path(image.get("subset") or Path(name).parent), Path())
    return Named(name, (file.parent, file.parent / "images"), split)


def extent(
    file: Path, shape: ElementTree.Element
) -> tuple[tuple[float, float, float, float], list[list[float]] | None]:
    """Box x, y, width, height and polygons of a shape; of a turned box, the one round it."""
    try:
        if shape.tag == "box":
            x0, y0, x1, y1 = (float(shape.attrib[edge]) for edge in BOX_EDGES)
            angle = float(shape.get("rotation") or 0)
            return turned_box((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, angle), None
        if shape.tag == "polygon":
            words = [point.split(",") for point in shape.attrib["points"].split(";")]
            points = [(float(x), float(y)) for x, y in words]
            return box_of_points(points), [[v for point in points for v in point]]
        if shape.tag == "ellipse":
            x, y, rx, ry = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
            return (x - rx, y - ry, 2 * rx, 2 * ry), None
        x, y, w, h = (float(shape.attrib[key]) for key in ("left", "top", "width", "height"))
        return (x, y, w, h), None
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{file}: a {shape.tag} of {shape.get('label')!r} has no extent that is a number: "
            "export it again"
        ) from error


def turned_box(
    x: float, y: float, width: float, height: float, degrees: float
) -> tuple[float, float, float, float]:
    """The box x, y, width, height round one that is turned about its centre (x, y)."""
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    w, h = width * cos + height * sin, width * sin + height * cos
    return x - w / 2, y - h / 2, w, h
