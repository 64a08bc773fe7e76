"""LVIS v1 annotation files, read into detectron2 records."""

import json
import logging
import os
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["load_lvis_json", "register_lvis_instances"]

logger = logging.getLogger(__name__)


def _file_name(image_root: str, image: dict) -> str:
    """
    Path of an LVIS image.

    LVIS splits mix images of COCO's train2017 and val2017 folders; the last two parts of the
    image's URL say which. Images of other origin are named by a plain "file_name".
    """
    if "coco_url" in image:
        folder, name = image["coco_url"].split("/")[-2:]
        return os.path.join(image_root, folder, name)
    return os.path.join(image_root, image["file_name"])


def load_lvis_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: list[str] | None = None,
) -> list[dict]:
    """
    Load an LVIS v1 annotation file.

    Args:
        json_file: the annotation file. Its category ids run from 1 without gaps.
        image_root: folder that holds COCO's "train2017" and "val2017".
        dataset_name: where given, this name's metadata receives what the file tells about the
            classes, where it is not set yet: `thing_classes` (first synonym of each category) and
            `class_image_count` (dicts with "id" and "image_count", for frequency-weighted losses).
        extra_annotation_keys: further keys to copy from each annotation.

    Returns:
        One dict per image in id order with "file_name", "height", "width", "image_id",
        "neg_category_ids" and "not_exhaustive_category_ids" (as in the file, 1-based) and
        "annotations": dicts with "bbox" (absolute XYWH), "bbox_mode", "category_id" (0-based)
        and "segmentation" (polygons).

    Raises:
        FileNotFoundError, AssertionError (repeated annotation ids, or a polygon with fewer than
        three points).
    """
    with open(PathManager.get_local_path(json_file)) as file:
        content = json.load(file)

    if dataset_name is not None:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        meta = MetadataCatalog.get(dataset_name)
        if "thing_classes" not in meta.as_dict():
            meta.thing_classes = [
                (category.get("synonyms") or [category["name"]])[0] for category in categories
            ]
        if "class_image_count" not in meta.as_dict() and all(
            "image_count" in category for category in categories
        ):
            meta.class_image_count = [
                {"id": category["id"], "image_count": category["image_count"]}
                for category in categories
            ]

    rows = content.get("annotations", [])  # absent in the files of the test splits
    assert len({row["id"] for row in rows}) == len(
        rows
    ), f"{json_file} repeats annotation ids; number the annotations anew"
    rows_of: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for row in rows:
        rows_of[row["image_id"]].append(row)

    records = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        annotations = []
        for row in rows_of[image["id"]]:
            polygons = row["segmentation"]
            assert polygons and all(len(p) % 2 == 0 and len(p) >= 6 for p in polygons), (
                f"annotation {row['id']} in {json_file} has a polygon with fewer than three "
                "points or half a point; repair or remove it"
            )
            annotations.append(
                {
                    "bbox": row["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": row["category_id"] - 1,
                    "segmentation": polygons,
                    **{key: row[key] for key in extra_annotation_keys or []},
                }
            )
        records.append(
            {
                "file_name": _file_name(image_root, image),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "neg_category_ids": image.get("neg_category_ids", []),
                "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
                "annotations": annotations,
            }
        )
    logger.info(f"Loaded {len(records)} images in LVIS format from {json_file}")
    return records


def register_lvis_instances(
    name: str, metadata: dict[str, Any], json_file: str, image_root: str
) -> None:
    """
    Register a dataset in LVIS format; the file is read at `DatasetCatalog.get(name)`.

    Args:
        name: the dataset's name, e.g. "lvis_v1_train".
        metadata: further metadata. Class names may be left out, they are read from the file.
        json_file: the annotation file.
        image_root: folder that holds COCO's "train2017" and "val2017".
    """
    DatasetCatalog.register(name, lambda: load_lvis_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="lvis", **metadata
    )
