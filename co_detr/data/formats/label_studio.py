"""Label Studio's JSON: a list of tasks, with boxes in percent of the picture.

Both exports are read, JSON and JSON-MIN. Of several annotations of a task the first counts that was
not cancelled. Names of uploaded pictures have a prefix of eight characters, which the pictures that
were uploaded lack.
"""

import math
import re
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

from co_detr.data.pictures import UnreadablePicture, picture_size

from .pictures import find_picture
from .split import Labelled, Object, Split, box_of_points, build_split, natural_order

PREFIX = re.compile(r"^[0-9a-f]{8}-")


def is_export(content: object) -> bool:
    """Whether a JSON file's content is such a list."""
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    task = content[0]
    return "annotations" in task or ("image" in task and "data" not in task)


def read_file(file: Path, tasks: list[dict]) -> list[Split]:
    """The one split, "all", of an export.

    Raises:
        ValueError: a task names no picture, or a box has no numbers.
    """
    labelled: list[Labelled] = []
    left_out: Counter[str] = Counter()
    for number, task in enumerate(tasks, start=1):
        try:
            path = picture_of(file, task)
            objects = objects_of(file, task, path, left_out)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"{file}: task number {number} is not what Label Studio writes "
                f"({type(error).__name__}: {error}): export it again, or remove the task"
            ) from error
        labelled.append(Labelled(path, objects))
    names = natural_order(name for picture in labelled for name, *_ in picture.objects)
    notes = [f"left out {n} results of the kind {kind!r}" for kind, n in left_out.items()]
    return [build_split("all", file, labelled, names, notes)]


def objects_of(file: Path, task: dict, picture: Path, left_out: Counter[str]) -> list[Object]:
    """The objects of a task; regions of other kinds are counted in `left_out`."""
    objects: list[Object] = []
    for result in results_of(task):
        value = result.get("value", result)
        labels = value.get("rectanglelabels") or value.get("polygonlabels")
        if not labels:
            left_out[str(result.get("type", "other"))] += 1
            continue
        if not isinstance(labels[0], str):
            raise TypeError(f"a region has the labels {labels!r:.80}")
        objects.append((labels[0], *extent(file, picture, result, value)))
    return objects


def results_of(task: dict) -> list[dict]:
    """The regions of a task."""
    if "annotations" in task:
        done = [
            a for a in task["annotations"] if isinstance(a, dict) and not a.get("was_cancelled")
        ]
        return done[0].get("result", []) if done else []
    regions = task.get("label") or task.get("bbox") or []
    return [region for region in regions if isinstance(region, dict)]


def picture_of(file: Path, task: dict) -> Path:
    """The picture of a task; beside the file, in `images`, or anywhere below its folder."""
    data = task.get("data", task)
    keys = ["image", "img", *data]
    url = next((data[k] for k in keys if isinstance(data.get(k), str)), None)
    if url is None:
        raise ValueError(f"{file}: task {task.get('id')} names no picture in `data`")
    try:
        parsed = urlparse(url)
    except ValueError as error:
        raise ValueError(f"{file}: {url!r:.80} is no address of a picture ({error})") from error
    name = parse_qs(parsed.query).get("d", [unquote(parsed.path)])[0]
    name = name.replace("\\", "/").rpartition("/")[2]
    folders = file.parent, file.parent / "images"
    path = find_picture(name, *folders, top=file.parent)
    if not path.is_file():
        path = find_picture(PREFIX.sub("", name), *folders, top=file.parent)
    return path


def extent(
    file: Path, picture: Path, result: dict, value: dict
) -> tuple[tuple[float, float, float, float], list[list[float]] | None]:
    """Box x, y, width, height and polygons of a region, in pixels; of a turned box, the one round
    it (it is turned about its upper left corner)."""
    try:
        height, width = picture_size(picture)
    except UnreadablePicture:  # reported where all pictures are opened
        height, width = result.get("original_height", 1), result.get("original_width", 1)
    try:
        if "points" in value:
            points = [(x * width / 100, y * height / 100) for x, y in value["points"]]
            return box_of_points(points), [[v for point in points for v in point]]
        x, w = value["x"] * width / 100, value["width"] * width / 100
        y, h = value["y"] * height / 100, value["height"] * height / 100
        angle = math.radians(value.get("rotation") or 0)
        cos, sin = math.cos(angle), math.sin(angle)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: a region of {picture.name} has no numbers for a box") from error
    if not angle:
        return (x, y, w, h), None
    corners = [(0, 0), (w, 0), (w, h), (0, h)]
    turned = [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in corners]
    return box_of_points(turned), None
