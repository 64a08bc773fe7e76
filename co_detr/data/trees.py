"""Registers what `datasets/prepare_trees.py` makes: tree crowns on aerial photos.

`trees_train`, `trees_val` and `trees_far` are tiles; `trees_train_photos`, `trees_val_photos` and
`trees_far_photos` the whole photos that these are cut from, for what is detected in tiles and
merged.
"""

import os
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

PREPARE = "python datasets/prepare_trees.py"


def register_trees(root: str, prefix: str = "trees") -> None:
    """Register `<prefix>_{train,val,far}` and `<prefix>_{train,val,far}_photos`.

    They are under `root/trees`. Nothing is read yet.
    """
    root = os.path.join(root, "trees")
    for split in ("train", "val", "far"):
        for name, stem, folder in (
            (f"{prefix}_{split}", "instances", split),
            (f"{prefix}_{split}_photos", "photos", "photos"),
        ):
            json_file = os.path.join(root, "annotations", f"{stem}_{split}.json")
            image_root = os.path.join(root, folder)
            DatasetCatalog.register(name, partial(_load, name, json_file, image_root))
            MetadataCatalog.get(name).set(
                json_file=json_file,
                image_root=image_root,
                evaluator_type="coco",
                thing_classes=["tree"],
                thing_dataset_id_to_contiguous_id={1: 0},
                remedy=f"Make it with `{PREPARE}`",
            )


def trees_root() -> str:
    """The folder of detectron2's datasets, `DETECTRON2_DATASETS` or ./datasets."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def backbone_weights() -> str:
    """The file of the ImageNet weights of timm's `tf_efficientnet_lite0`.

    Raises:
        FileNotFoundError: it has not been made.
    """
    path = os.path.join(trees_root(), "trees", "weights", "efficientnet_lite0.safetensors")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no file {path}: make it with `{PREPARE}`, or point DETECTRON2_DATASETS to the folder "
            "that holds `trees`"
        )
    return path


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f"{name} is not there: no file {json_file}. Make the dataset with `{PREPARE}`, or "
            "point DETECTRON2_DATASETS to the folder that holds `trees`"
        )
    return load_coco_json(json_file, image_root, name)


register_trees(trees_root())
