"""Registers what `datasets/prepare_digits.py` makes as `digits_train` and `digits_val`."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

PREPARE = "python datasets/prepare_digits.py"


def register_digits(root: str, prefix: str = "digits") -> None:
    """Register `<prefix>_train` and `<prefix>_val` under `root/digits`. Nothing is read yet.

    Class names and ids are known without the files, as for detectron2's built-in datasets.
    """
    for split in ("train", "val"):
        name = f"{prefix}_{split}"
        json_file = os.path.join(root, "digits", "annotations", f"instances_{split}.json")
        image_root = os.path.join(root, "digits", split)

        # Defaults bind the values of this iteration.
        def load(name: str = name, json_file: str = json_file, image_root: str = image_root):
            if not os.path.isfile(json_file):
                raise FileNotFoundError(
                    f"{name} is not there: no file {json_file}. Make the dataset with "
                    f"`{PREPARE}`, or point DETECTRON2_DATASETS to the folder that holds `digits`"
                )
            return load_coco_json(json_file, image_root, name)

        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(
            json_file=json_file,
            image_root=image_root,
            evaluator_type="coco",
            thing_classes=[str(digit) for digit in range(10)],
            thing_dataset_id_to_contiguous_id={digit + 1: digit for digit in range(10)},
            remedy=f"Make it with `{PREPARE}`",
        )


register_digits(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
