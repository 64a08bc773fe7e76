"""
Registers COCO 2017 and LVIS v1 under the folder that the environment variable
DETECTRON2_DATASETS names (default: "datasets", relative to the working directory).
"""

import os

from detectron2.data.datasets.builtin_meta import coco_metadata
from detectron2.data.datasets.coco import register_coco_instances
from detectron2.data.datasets.lvis import register_lvis_instances

# name: (annotation file, image folder)
_COCO = {
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
    "coco_2017_test": ("coco/annotations/image_info_test2017.json", "coco/test2017"),
    "coco_2017_test-dev": ("coco/annotations/image_info_test-dev2017.json", "coco/test2017"),
}
# LVIS keeps COCO's images in COCO's folders, hence one root for all splits.
_LVIS = {
    "lvis_v1_train": ("lvis/lvis_v1_train.json", "coco/"),
    "lvis_v1_val": ("lvis/lvis_v1_val.json", "coco/"),
    "lvis_v1_test_dev": ("lvis/lvis_v1_image_info_test_dev.json", "coco/"),
}


def register_builtin_datasets(root: str) -> None:
    """Register the builtin datasets below `root`; nothing is read."""
    for name, (json_file, image_root) in _COCO.items():
        register_coco_instances(
            name, coco_metadata(), os.path.join(root, json_file), os.path.join(root, image_root)
        )
    for name, (json_file, image_root) in _LVIS.items():
        register_lvis_instances(
            name, {}, os.path.join(root, json_file), os.path.join(root, image_root)
        )


register_builtin_datasets(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
