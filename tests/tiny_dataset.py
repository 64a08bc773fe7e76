"""Datasets of two pictures with any number of classes, in COCO and in LVIS format."""

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_lvis_json
from PIL import Image

SIZES = {1: (40, 60), 2: (60, 40)}  # height and width by image id
_counter = itertools.count()


def register(folder: Path, num_classes: int, lvis: bool) -> str:
    """Write a wide and a high picture with an object each, register them, return the name.

    The objects are squares with masks, of the first and the last class.
    """
    (folder / "val2017").mkdir(parents=True)
    for image_id, (height, width) in SIZES.items():
        pixels = np.random.default_rng(image_id).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "val2017" / f"{image_id}.png")
    images = [
        {"id": image_id, "height": height, "width": width}
        | {"file_name": f"{image_id}.png", "coco_url": f"http://host/val2017/{image_id}.png"}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for image_id, (height, width) in SIZES.items()
    ]
    categories = [
        {"id": number, "name": f"class {number}", "synonyms": [f"class {number}"]}
        | {"synset": f"class.{number}", "def": "", "frequency": "f", "image_count": 1}
        | {"instance_count": 1}
        for number in range(1, num_classes + 1)
    ]
    corners = [[10, 10, 30, 10, 30, 30, 10, 30]]
    annotations = [
        {"id": image_id, "image_id": image_id, "category_id": category, "bbox": [10, 10, 20, 20]}
        | {"area": 400, "iscrowd": 0, "segmentation": corners}
        for image_id, category in zip(SIZES, (1, num_classes))
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    json_file = str(folder / "instances.json")
    Path(json_file).write_text(json.dumps(content))

    name = f"two_pictures_{next(_counter)}"
    root = str(folder) if lvis else str(folder / "val2017")
    # the name makes the loader renumber COCO's categories; LVIS's are numbered in order anyway
    load = partial(load_lvis_json if lvis else load_coco_json, json_file, root)
    DatasetCatalog.register(name, load if lvis else partial(load, name))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=root,
        evaluator_type="lvis" if lvis else "coco",
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(num_classes)},
        class_image_count=[{"id": i + 1, "image_count": 1} for i in range(num_classes)],
    )
    return name


def use(cfg, name: str) -> None:
    """Make a config read a registered dataset, in the calling process."""
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = name
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
