"""Pictures with what is wrong on them, as JPEG inside the page."""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import supervision
from PIL import Image

from co_detr.data.pictures import read_picture

from .errors import Suspect
from .loading import Problem

LONGER_SIDE = 512  # of a picture in the page
CROP_SIDE = 200  # of a part of one
QUALITY = 78
COLOURS = {"right": "#2e9e5b", "wrong": "#d6322e", "missed": "#e8a200"}

Mark = tuple[Sequence[float], str, str]  # box as XYWH, text, key of COLOURS


@dataclass(frozen=True)
class Picture:
    """Attributes: title, JPEG as a data URL, wrong (detections), missed and right (objects)."""

    title: str
    url: str
    wrong: int
    missed: int
    right: int


def worst(
    problem: Problem,
    detections: Sequence[dict],
    statuses: Mapping[int, str],
    found: Mapping[int, str],
    folder: Path,
    most: int,
) -> tuple[list[Picture], list[str]]:
    """The pictures with the most errors, and the names of those that cannot be read.

    Args:
        problem: what was evaluated.
        detections: those above their thresholds.
        statuses: id of a detection -> "tp" or "fp".
        found: id of an object -> "matched" or "fn".
        folder: of the pictures; see `find`.
        most: so many pictures.
    """
    marks: dict[int, list[Mark]] = defaultdict(list)
    kinds: dict[int, list[str]] = defaultdict(list)
    surest: dict[int, float] = defaultdict(float)
    for label in problem.truth.dataset["annotations"]:
        if found.get(label["id"]) == "fn":
            name = problem.names[label["category_id"]]
            marks[label["image_id"]].append((label["bbox"], name, "missed"))
    for detection in sorted(detections, key=lambda d: d["score"]):
        status = statuses.get(detection["id"])
        if status in ("tp", "fp"):
            kind, image_id = "right" if status == "tp" else "wrong", detection["image_id"]
            text = f"{problem.names[detection['category_id']]} {detection['score']:.2f}"
            marks[image_id].append((detection["bbox"], text, kind))
            if kind == "wrong":
                surest[image_id] = max(surest[image_id], detection["score"])
    for image_id, found_there in marks.items():
        kinds[image_id] = [kind for _, _, kind in found_there]
    errors = {i: len(k) - k.count("right") for i, k in kinds.items()}
    order = sorted((i for i in errors if errors[i]), key=lambda i: (-errors[i], -surest[i], i))
    pictures: list[Picture] = []
    unreadable: list[str] = []
    for image_id in order:
        if len(pictures) == most:
            break
        name = problem.files[image_id]
        try:
            pixels = read_picture(find(folder, name))
        except OSError:
            unreadable.append(name)
            if len(unreadable) > most and not pictures:  # the wrong folder
                break
            continue
        counts = {key: kinds[image_id].count(key) for key in COLOURS}
        pictures.append(Picture(name, jpeg(draw(pixels, marks[image_id])), **counts))
    return pictures, unreadable


def crops(
    suspects: Sequence[Suspect], problem: Problem, folder: Path, most: int
) -> list[tuple[Suspect, str | None]]:
    """Suspects with their surroundings as data URLs; None for a picture that cannot be read."""
    return [(suspect, _crop(suspect, problem, folder)) for suspect in suspects[:most]]


def find(folder: Path, name: str) -> Path:
    """The file of a picture: by its path below the folder, or else by its name alone."""
    path = folder / name
    return path if path.is_file() else folder / Path(name).name


def draw(pixels: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """Boxes with texts on a picture (H, W, 3) uint8 RGB, scaled to `LONGER_SIDE`."""
    factor = LONGER_SIDE / max(pixels.shape[:2])
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    canvas = picture.resize((width, height), Image.Resampling.BICUBIC)
    scene = np.ascontiguousarray(np.asarray(canvas)[:, :, ::-1])  # supervision draws in BGR
    if not marks:
        return scene[:, :, ::-1]
    boxes = np.array([box for box, _, _ in marks], float) * factor
    boxes[:, 2:] += boxes[:, :2]
    kinds = [list(COLOURS).index(kind) for _, _, kind in marks]
    found = supervision.Detections(xyxy=boxes, class_id=np.array(kinds))
    palette = supervision.ColorPalette.from_hex(list(COLOURS.values()))
    lookup = supervision.ColorLookup.CLASS
    scene = supervision.BoxAnnotator(palette, thickness=2, color_lookup=lookup).annotate(
        scene, found
    )
    for index, (_, text, kind) in enumerate(marks):  # together they would be moved off their boxes
        corner = supervision.Position.BOTTOM_LEFT if kind == "missed" else None
        texts = supervision.LabelAnnotator(
            palette,
            text_scale=0.55,
            text_padding=3,
            text_position=corner or supervision.Position.TOP_LEFT,
            color_lookup=lookup,
            smart_position=True,
        )
        alone = cast(supervision.Detections, found[index : index + 1])
        scene = texts.annotate(scene, alone, labels=[text])
    return scene[:, :, ::-1]


def _crop(suspect: Suspect, problem: Problem, folder: Path) -> str | None:
    """The box with as much around it again, in the colour of what it is."""
    try:
        pixels = read_picture(find(folder, problem.files[suspect.image_id]))
    except OSError:
        return None
    x, y, w, h = suspect.box
    side = 2 * max(w, h, 16)
    left, top = x + w / 2 - side / 2, y + h / 2 - side / 2
    window = (left, top, left + side, top + side)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    part = picture.transform(
        (CROP_SIDE, CROP_SIDE), Image.Transform.EXTENT, window, Image.Resampling.BICUBIC
    )
    factor = CROP_SIDE / side
    box = np.array([[x - left, y - top, x - left + w, y - top + h]]) * factor
    colour = supervision.Color.from_hex(COLOURS["missed" if suspect.found is None else "wrong"])
    scene = np.ascontiguousarray(np.asarray(part)[:, :, ::-1])
    scene = supervision.BoxAnnotator(colour, thickness=2).annotate(
        scene, supervision.Detections(xyxy=box, class_id=np.zeros(1, int))
    )
    return jpeg(scene[:, :, ::-1])


def jpeg(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 RGB as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
