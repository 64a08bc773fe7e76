"""Registers what `datasets/prepare_digits.py` makes.

`digits_train` and `digits_val` are in COCO format, `digits_lvis_train` and `digits_lvis_val` are
the same pictures in LVIS format, with a long tail of digits.
"""

import json
import os
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_lvis_json

PREPARE = "python datasets/prepare_digits.py"


def register_digits(root: str, prefix: str = "digits") -> None:
    """Register `<prefix>_{train,val}` and `<prefix>_lvis_{train,val}` under `root/digits`.

    Nothing is read yet. Class names and ids are known without the files, as for detectron2's
    built-in datasets.
    """
    root = os.path.join(root, "digits")
    for split in ("train", "val"):
        name = f"{prefix}_{split}"
        json_file = os.path.join(root, "annotations", f"instances_{split}.json")
        image_root = os.path.join(root, split)
        DatasetCatalog.register(name, partial(_load_coco, name, json_file, image_root))
        _describe(name, json_file, image_root, "coco")

        name = f"{prefix}_lvis_{split}"
        json_file = os.path.join(root, "annotations", f"lvis_{split}.json")
        image_root = os.path.join(root, "")  # readers of LVIS append the split's folder
        DatasetCatalog.register(name, partial(_load_lvis, name, json_file, image_root))
        _describe(name, json_file, image_root, "lvis")


def _describe(name: str, json_file: str, image_root: str, evaluator_type: str) -> None:
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type=evaluator_type,
        thing_classes=[str(digit) for digit in range(10)],
        thing_dataset_id_to_contiguous_id={digit + 1: digit for digit in range(10)},
        remedy=f"Make it with `{PREPARE}`",
    )


def _load_coco(name: str, json_file: str, image_root: str) -> list[dict]:
    _check_made(name, json_file)
    return load_coco_json(json_file, image_root, name)


def _load_lvis(name: str, json_file: str, image_root: str) -> list[dict]:
    """Also notes how many training images show each class, as `class_image_count`."""
    _check_made(name, json_file)
    metadata = MetadataCatalog.get(name)
    if metadata.get("class_image_count") is None:
        with open(json_file) as file:
            categories = json.load(file)["categories"]
        metadata.class_image_count = [
            {"id": category["id"], "image_count": category["image_count"]}
            for category in categories
        ]
    # without its name: upstream detectron2 has class names for the names of LVIS itself only
    return load_lvis_json(json_file, image_root)


def _check_made(name: str, json_file: str) -> None:
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f"{name} is not there: no file {json_file}. Make the dataset with `{PREPARE}`, or "
            "point DETECTRON2_DATASETS to the folder that holds `digits`"
        )


register_digits(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
