"""Data sets of one's own, registered by a config."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances


def register_split(name: str, json_file: str | os.PathLike, image_root: str | os.PathLike) -> None:
    """Register a COCO file; the same one again, too, since a config may be loaded more than once.

    Args:
        name: for `dataloader.<split>.dataset.names`.
        json_file: the annotations.
        image_root: what their file names of pictures are relative to.

    Raises:
        ValueError: the name is that of other data.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if (known.get("json_file"), known.get("image_root")) == (json_file, image_root):
            return
        raise ValueError(
            f"the name {name} is taken by {known.get('json_file', 'other data')}: choose another"
        )
    register_coco_instances(name, {}, json_file, image_root)
