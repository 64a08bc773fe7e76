"""A folder of pictures that look like photos, with objects, as COCO writes them."""

import json
from pathlib import Path

import numpy as np
from detectron2.data.datasets import register_coco_instances
from PIL import Image, ImageDraw

SIZE = (480, 640)  # height and width, those of most pictures of COCO
MEAN_OBJECTS = 7.3  # per picture of COCO
POINTS = 36  # of an outline
JPEG_QUALITY = 90
OCTAVES = (4, 8, 16, 32, 64, 128, 256)  # cells along the height; weaker the finer
GRAIN = 9.0  # standard deviation of a sensor's noise, of 255


def register_pictures(folder: Path, number: int, name: str, seed: int = 0) -> None:
    """Write `number` pictures with an annotation file, and register them as a dataset.

    The objects are filled outlines, of sizes spread evenly on a logarithmic scale from 16 pixels
    to the height, and of 80 classes.
    """
    rng = np.random.default_rng(seed)
    height, width = SIZE
    images, annotations = [], []
    for image_id in range(1, number + 1):
        outlines = [_outline(rng) for _ in range(rng.poisson(MEAN_OBJECTS))]
        file_name = f"{image_id:06}.jpg"
        _picture(rng, outlines).save(folder / file_name, quality=JPEG_QUALITY)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for outline in outlines:
            low, high = outline.min(0), outline.max(0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(np.prod(high - low)),
                    "iscrowd": 0,
                    "segmentation": [outline.ravel().tolist()],
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    register_coco_instances(name, {}, str(folder / "instances.json"), str(folder))


def _outline(rng: np.random.Generator) -> np.ndarray:
    """A closed curve round a point of the picture, (POINTS, 2) in pixels, to two decimals."""
    height, width = SIZE
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    radius = height / 2 * (16 / height) ** rng.random() * rng.uniform(0.7, 1.0, POINTS)
    points = rng.random(2) * (width, height) + np.stack(
        [radius * np.cos(angle) * rng.uniform(0.5, 1), radius * np.sin(angle)], axis=1
    )
    return points.clip(0, (width, height)).round(2)


def _picture(rng: np.random.Generator, outlines: list[np.ndarray]) -> Image.Image:
    """Smooth noise of several scales, the objects in plain colours under it, and grain."""
    height, width = SIZE
    plain = Image.new("RGB", (width, height), (128, 128, 128))
    draw = ImageDraw.Draw(plain)
    for outline in outlines:
        draw.polygon(list(map(tuple, outline)), fill=tuple(map(int, rng.integers(30, 226, 3))))
    pixels = np.asarray(plain, dtype=np.float32)
    for cells in OCTAVES:
        noise = rng.normal(0, 1, (cells, cells * width // height, 3)).astype(np.float32)
        bands = [
            Image.fromarray(band).resize((width, height), 3) for band in np.moveaxis(noise, 2, 0)
        ]
        pixels = pixels + 96 / np.sqrt(cells) * np.stack([np.asarray(b) for b in bands], axis=2)
    pixels = pixels + rng.normal(0, GRAIN, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
