"""Registers Objects365 v2 (Shao et al. 2019) as `objects365_v2_train` and `objects365_v2_val`.

Expected under the folder DETECTRON2_DATASETS, as the archives of the dataset unpack:

    objects365/
      annotations/zhiyuan_objv2_train.json, zhiyuan_objv2_val.json
      train/patch0/objects365_v1_00000000.jpg ... train/patch50/...
      val/patch0/... val/patch43/...
"""

import os
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json


def load_objects365_json(json_file: str, image_root: str, name: str) -> list[dict]:
    """Load an annotation file; classes are those of the file, 365, in the order of their ids.

    File names there carry the folders of the original release ("images/v1/patch8/..."), of which
    the archives keep the last one.

    Returns:
        detectron2's records, one dict per image.
    """
    records = load_coco_json(json_file, image_root, name)
    for record in records:
        patch, file_name = record["file_name"].split("/")[-2:]
        record["file_name"] = os.path.join(image_root, patch, file_name)
    return records


def register_objects365(root: str, prefix: str = "objects365_v2") -> None:
    """Register `<prefix>_train` and `<prefix>_val` under `root/objects365`. Nothing is read yet."""
    for split in ("train", "val"):
        name = f"{prefix}_{split}"
        json_file = os.path.join(root, "objects365", "annotations", f"zhiyuan_objv2_{split}.json")
        image_root = os.path.join(root, "objects365", split)
        DatasetCatalog.register(name, partial(load_objects365_json, json_file, image_root, name))
        MetadataCatalog.get(name).set(
            json_file=json_file, image_root=image_root, evaluator_type="coco"
        )


register_objects365(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
