#!/usr/bin/env python
"""Makes the digits dataset: handwritten digits chalked on dimmed photos, in COCO format.

The digits are scikit-learn's `load_digits` (1797 scans of 8x8 cells, from the UCI repository), the
photos its two `load_sample_images`; nothing is downloaded. Train and val share no scan and no
pixel of a photo. The same bytes come out every time:

    $DETECTRON2_DATASETS/digits/            (default ./datasets/digits)
      train/000001.png ...                  2000 images, 128x128 RGB
      val/000001.png ...                     250 images
      annotations/instances_train.json      category_id = digit + 1, ten categories "0" to "9"
      annotations/instances_val.json        boxes, their areas, and the ink as polygons
      annotations/lvis_train.json           the same pictures in LVIS format: see `to_lvis`
      annotations/lvis_val.json

Usage: python datasets/prepare_digits.py [--output FOLDER] [--force]
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

SEED = 0
IMAGE_SIZE = 128  # pixels, width = height
MAX_DIGITS = 5  # per image, at least one
DIMMING = 0.5  # factor on the photo: chalk on a dim ground
MIN_BACKGROUND = 64  # smallest side of the photo crop, pixels of the photo
DIGIT_SIDE = (24.0, 64.0)  # range of a digit's longer side, pixels
MIN_SIDE = 4  # of a digit's shorter side, pixels
INK_CELL = 0.25  # opacity from which on a cell or pixel belongs to the digit
MAX_IOU = 0.02  # between any two boxes of an image
PLACEMENTS = 20  # tries before a digit is dropped
MIN_CONTRAST = 70.0  # luminance of the ink above the mean luminance under its box, of 255
# In the LVIS files so many training images are annotated for these digits; for the others, all are.
# By LVIS's bounds of 10 and 100 images that makes one rare, three common and six frequent digits.
ANNOTATED_IMAGES = {6: 100, 7: 60, 8: 30, 9: 10}
LUMINANCE = np.array([0.299, 0.587, 0.114])  # weights of R, G, B (ITU-R BT.601)


Box = tuple[int, int, int, int]  # x, y, width, height in pixels


class Digit(NamedTuple):
    """An object of an image."""

    scan: int  # index among all scans
    box: Box
    ink: np.ndarray  # (height, width) bool, which pixels of the box


class Split(NamedTuple):
    """One half of the dataset: how many images, and which scans and photo columns it may use."""

    name: str
    index: int  # second half of the random seed
    num_images: int
    scans: slice
    columns: slice


SPLITS = (
    Split("train", 0, 2000, slice(0, 1400), slice(0, 400)),
    Split("val", 1, 250, slice(1400, 1797), slice(400, 640)),
)


def load_sources() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Scans (1797, 8, 8) in 0..1, their digits (1797,), and two photos (427, 640, 3) uint8."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise ImportError(
            "the digits dataset is made from scikit-learn's pictures: pip install scikit-learn"
        ) from error
    digits = load_digits()
    return digits.images / 16.0, digits.target, load_sample_images().images


def crop_to_ink(alpha: np.ndarray) -> np.ndarray:
    """The smallest window of an (h, w) opacity map that holds every value >= `INK_CELL`."""
    rows, columns = (alpha >= INK_CELL).any(axis=1), (alpha >= INK_CELL).any(axis=0)
    top, bottom = np.flatnonzero(rows)[[0, -1]]
    left, right = np.flatnonzero(columns)[[0, -1]]
    return alpha[top : bottom + 1, left : right + 1]


def render_digit(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge one scan (8, 8) to a random size; returns its opacity (h, w) in 0..1.

    Cropped to what the bounding box encloses: the first and last rows and columns hold ink.
    """
    scan = crop_to_ink(scan)
    long_side = np.exp(rng.uniform(*np.log(DIGIT_SIDE)))
    height, width = scan.shape
    scale = long_side / max(height, width)
    size = [max(MIN_SIDE, round(side * scale)) for side in (width, height)]
    alpha = Image.fromarray(scan.astype(np.float32)).resize(size, Image.BICUBIC)
    return crop_to_ink(np.asarray(alpha, dtype=np.float64).clip(0.0, 1.0))


def draw_background(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square of a photo (H, W, 3), dimmed: (IMAGE_SIZE, IMAGE_SIZE, 3) float, 0..127.5."""
    height, width = photo.shape[:2]
    side = int(rng.integers(MIN_BACKGROUND, min(height, width), endpoint=True))
    top = int(rng.integers(0, height - side, endpoint=True))
    left = int(rng.integers(0, width - side, endpoint=True))
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.BILINEAR)) * DIMMING


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def find_place(shape: tuple[int, int], taken: list[Box], rng: np.random.Generator) -> Box | None:
    """A box (x, y, width, height) for a digit of shape (h, w), clear of those taken, or None."""
    height, width = shape
    for _ in range(PLACEMENTS):
        x = int(rng.integers(0, IMAGE_SIZE - width, endpoint=True))
        y = int(rng.integers(0, IMAGE_SIZE - height, endpoint=True))
        box = (x, y, width, height)
        if all(iou(box, other) <= MAX_IOU for other in taken):
            return box
    return None


def pick_ink(ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A flat colour (3,) that stands out from the ground (h, w, 3) by `MIN_CONTRAST` on average."""
    needed = (ground @ LUMINANCE).mean() + MIN_CONTRAST
    if needed >= 255.0:
        raise ValueError(f"no ink reaches luminance {needed:.0f}: the ground is too bright")
    while True:
        ink = rng.uniform(128.0, 255.0, size=3)
        if ink @ LUMINANCE > needed:
            return ink


def endless(indices: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Go through the indices in a random order, and again in another one, for ever."""
    while True:
        yield from (int(i) for i in rng.permutation(indices))


def compose_image(
    scan_stream: Iterator[int],
    scans: np.ndarray,
    photos: list[np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Digit]]:
    """One picture (IMAGE_SIZE, IMAGE_SIZE, 3) uint8 and its objects."""
    background = draw_background(photos[int(rng.integers(len(photos)))], rng)
    canvas = background.copy()
    objects: list[Digit] = []
    for _ in range(int(rng.integers(1, MAX_DIGITS, endpoint=True))):
        index = next(scan_stream)
        alpha = render_digit(scans[index], rng)
        box = find_place(alpha.shape, [other.box for other in objects], rng)
        if box is None:
            continue
        x, y, width, height = box
        window = np.s_[y : y + height, x : x + width]
        ink = pick_ink(background[window], rng)
        opacity = (alpha * rng.uniform(0.75, 1.0))[..., None]
        canvas[window] = canvas[window] * (1.0 - opacity) + ink * opacity
        objects.append(Digit(index, box, alpha >= INK_CELL))
    return np.rint(canvas).astype(np.uint8), objects


def to_polygons(mask: np.ndarray, x: int, y: int) -> list[list[int]]:
    """Rectangles that fill the pixels of a mask (h, w) whose upper left corner is at (x, y).

    Each is x1, y1, x2, y1, x2, y2, x1, y2, as COCO writes polygons. Runs that repeat from one row
    to the next share a rectangle.
    """
    polygons = []
    open_runs: dict[tuple[int, int], int] = {}  # (first, last + 1) column: first row
    for row in range(len(mask) + 1):
        inside = np.zeros(mask.shape[1] + 2, dtype=int)
        if row < len(mask):
            inside[1:-1] = mask[row]
        edges = np.flatnonzero(np.diff(inside)).tolist()
        runs = set(zip(edges[::2], edges[1::2]))
        for left, right in [run for run in open_runs if run not in runs]:
            x1, x2, y1, y2 = x + left, x + right, y + open_runs.pop((left, right)), y + row
            polygons.append([x1, y1, x2, y1, x2, y2, x1, y2])
        for run in sorted(runs - open_runs.keys()):
            open_runs[run] = row
    return polygons


def generate_split(split: Split) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """Yield every image of a split with its annotations.

    These have `category_id`, `bbox` (xywh in pixels), `area` (of the box) and `segmentation`.
    """
    scans, digits, photos = load_sources()
    photos = [photo[:, split.columns] for photo in photos]
    rng = np.random.default_rng([SEED, split.index])
    stream = endless(np.arange(len(scans))[split.scans], rng)
    for _ in range(split.num_images):
        image, objects = compose_image(stream, scans, photos, rng)
        yield image, [
            {
                "category_id": int(digits[o.scan]) + 1,
                "bbox": list(o.box),
                "area": o.box[2] * o.box[3],
                "segmentation": to_polygons(o.ink, o.box[0], o.box[1]),
            }
            for o in objects
        ]


def write_split(split: Split, root: Path) -> dict:
    """Write a split's pictures and its annotation file under `root`; returns the file's content."""
    (root / split.name).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    pictures = generate_split(split)
    progress = tqdm(pictures, desc=split.name, total=split.num_images, unit="image", mininterval=1)
    for image_id, (image, objects) in enumerate(progress, start=1):
        file_name = f"{image_id:06d}.png"
        Image.fromarray(image).save(root / split.name / file_name)
        images.append(
            {"id": image_id, "file_name": file_name, "height": IMAGE_SIZE, "width": IMAGE_SIZE}
        )
        for fields in objects:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **fields}
            )
    content = {
        "info": {
            "description": f"scikit-learn digits on photos, {split.name}, seed {SEED}",
            "split": split.name,
        },
        "licenses": [],
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
        "images": images,
        "annotations": annotations,
    }
    with open(root / "annotations" / f"instances_{split.name}.json", "w") as file:
        json.dump(content, file)
    return content


def to_lvis(train: dict, val: dict) -> tuple[dict, dict]:
    """The annotation files in LVIS format, with a long tail of digits.

    LVIS is federated: an image lists the categories it was searched for, and what it shows of the
    others is not annotated. Here only the first images that show a digit of `ANNOTATED_IMAGES` are
    annotated for it. Validation images are annotated for every digit.

    Args:
        train, val: contents of the COCO files.

    Returns:
        The contents of lvis_train.json and lvis_val.json.
    """
    shown = _images_by_category(train)
    for digit, number in ANNOTATED_IMAGES.items():
        shown[digit + 1] = shown[digit + 1][:number]
    annotated = {category: set(images) for category, images in shown.items()}
    kept = [a for a in train["annotations"] if a["image_id"] in annotated[a["category_id"]]]
    categories = [
        {
            **category,
            "synonyms": [category["name"]],
            "synset": f"digit_{category['name']}.n.01",
            "def": f"the digit {category['name']}",
            # of the training images, also in the validation file
            "image_count": len(annotated[category["id"]]),
            "instance_count": sum(a["category_id"] == category["id"] for a in kept),
            "frequency": _frequency(len(annotated[category["id"]])),
        }
        for category in train["categories"]
    ]
    return (
        _lvis_content(train, kept, categories),
        _lvis_content(val, val["annotations"], categories),
    )


def _images_by_category(content: dict) -> dict[int, list[int]]:
    """For each category id, in order, the ids of the images that show it."""
    images: dict[int, dict[int, None]] = {c["id"]: {} for c in content["categories"]}
    for annotation in content["annotations"]:
        images[annotation["category_id"]][annotation["image_id"]] = None
    return {category: list(ids) for category, ids in images.items()}


def _frequency(image_count: int) -> str:
    """LVIS's class of a category: rare, common or frequent."""
    return "r" if image_count <= 10 else "c" if image_count <= 100 else "f"


def _lvis_content(content: dict, annotations: list[dict], categories: list[dict]) -> dict:
    split = content["info"]["split"]
    shown: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for annotation in content["annotations"]:
        shown[annotation["image_id"]].add(annotation["category_id"])
    images = [
        {
            **image,
            # readers of LVIS take folder and name from the end of the address
            "coco_url": f"digits/{split}/{image['file_name']}",
            "neg_category_ids": [c["id"] for c in categories if c["id"] not in shown[image["id"]]],
            "not_exhaustive_category_ids": [],
        }
        for image in content["images"]
    ]
    return {**content, "categories": categories, "images": images, "annotations": annotations}


def write_lvis(train: dict, val: dict, root: Path) -> None:
    """Write the annotations of both splits in LVIS format under `root`."""
    for split, content in zip(("train", "val"), to_lvis(train, val)):
        with open(root / "annotations" / f"lvis_{split}.json", "w") as file:
            json.dump(content, file)


def is_complete(root: Path) -> bool:
    """Whether `root` holds every annotation file and as many pictures as there should be."""
    return all(
        (root / "annotations" / f"instances_{split.name}.json").is_file()
        and (root / "annotations" / f"lvis_{split.name}.json").is_file()
        and sum(1 for _ in (root / split.name).glob("*.png")) == split.num_images
        for split in SPLITS
    )


def prepare(root: Path, force: bool = False) -> bool:
    """Make the dataset at `root` unless it is there; returns whether anything was written.

    Written next to its place first and moved there at the end, so that an interrupted run leaves
    nothing that looks like a dataset. Raises FileExistsError where `root` holds something else.
    """
    if root.exists() and not force:
        if is_complete(root):
            return False
        raise FileExistsError(
            f"{root} exists but is not the complete digits dataset: remove it, "
            "or let it be replaced with --force"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        train, val = (write_split(split, unfinished) for split in SPLITS)
        write_lvis(train, val, unfinished)
        unfinished.chmod(0o755)  # a temporary folder is private to its owner
        if root.exists():
            shutil.rmtree(root)
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return True


def main() -> None:
    datasets = Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=datasets / "digits", help="%(default)s")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    args = parser.parse_args()
    written = prepare(args.output, args.force)
    print(f"{'Wrote' if written else 'Already there:'} {args.output}")


if __name__ == "__main__":
    main()
