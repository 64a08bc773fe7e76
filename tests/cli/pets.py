"""Two pictures with three objects, as every annotation tool would write them."""

import json

import numpy as np
from PIL import Image

# width, height; objects as name, x, y, width, height in pixels
PICTURES = {
    "a.png": ((100, 50), [("cat", 10, 5, 30, 20), ("dog", 50, 10, 40, 30)]),
    "b.png": ((40, 80), [("cat", 4, 8, 20, 40)]),
}
CLASSES = ["cat", "dog"]


def save_picture(path, size, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def save_pictures(folder):
    for seed, (name, (size, _)) in enumerate(PICTURES.items()):
        save_picture(folder / name, size, seed)


def coco(names=tuple(PICTURES), prefix=""):
    """The content of a COCO file on these pictures."""
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        (width, height), objects = PICTURES[name]
        images.append({"id": number, "file_name": prefix + name, "width": width, "height": height})
        for label, *box in objects:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "bbox": box, "iscrowd": 0}
                | {"category_id": CLASSES.index(label) + 1, "area": box[2] * box[3]}
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
