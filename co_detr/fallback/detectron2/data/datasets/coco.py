"""Annotation files in COCO's instance format, read into detectron2 records."""

import contextlib
import io
import logging
import os
import time
from typing import Any

import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

__all__ = ["convert_to_coco_dict", "load_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)


def _read_segmentation(segmentation: Any) -> Any:
    """
    Bring one COCO segmentation into the form of records: polygons or compressed run lengths.

    Returns None where no polygon has at least three points (six coordinates).
    """
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
    return polygons or None


def load_coco_json(
    json_file: str,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: list[str] | None = None,
) -> list[dict]:
    """
    Load a COCO instance annotation file.

    Args:
        json_file: the annotation file.
        image_root: folder that the file names in it are relative to.
        dataset_name: where given, category ids become contiguous (0-based, in id order) and
            `thing_classes` and `thing_dataset_id_to_contiguous_id` of this name's metadata are
            set. Otherwise category ids stay as they are in the file.
        extra_annotation_keys: further keys to copy from each annotation.

    Returns:
        One dict per image in id order with "file_name", "height", "width", "image_id" and
        "annotations": dicts with "bbox" (absolute XYWH), "bbox_mode", "category_id" and, where
        the file has them, "iscrowd" and "segmentation". Objects whose polygons are all
        degenerate are left out.

    Raises:
        FileNotFoundError, ValueError (an empty box, an object to ignore), KeyError (a category that
        the file does not list), AssertionError (repeated annotation ids).
    """
    start = time.perf_counter()
    json_file = PathManager.get_local_path(json_file)
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(json_file)
    seconds = time.perf_counter() - start
    if seconds > 1:
        logger.info(f"Loading {json_file} took {seconds:.1f} seconds")

    id_map = None
    if dataset_name is not None:
        categories = sorted(api.loadCats(api.getCatIds()), key=lambda category: category["id"])
        id_map = {category["id"]: index for index, category in enumerate(categories)}
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[category["name"] for category in categories],
            thing_dataset_id_to_contiguous_id=id_map,
        )

    images = [api.imgs[image_id] for image_id in sorted(api.imgs)]
    number_of_rows = sum(len(api.imgToAnns[image["id"]]) for image in images)
    distinct = {row["id"] for image in images for row in api.imgToAnns[image["id"]]}
    assert len(distinct) == number_of_rows, (
        f"{json_file} repeats annotation ids: {number_of_rows} annotations have "
        f"{len(distinct)} different ids; number them anew"
    )

    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or [])]
    records, dropped = [], 0
    for image in images:
        annotations = []
        for row in api.imgToAnns[image["id"]]:
            if row.get("ignore", 0):
                raise ValueError(
                    f"annotation {row['id']} in {json_file} has ignore={row['ignore']!r}, which "
                    "COCO's format does not know: remove the annotation, or make it a crowd region "
                    "(iscrowd=1)"
                )
            annotation = {key: row[key] for key in keys if key in row}
            if "bbox" in annotation and len(annotation["bbox"]) == 0:
                raise ValueError(
                    f"annotation {row['id']} of image {image['id']} in {json_file} has an empty "
                    "box; remove the annotation or give it a box"
                )
            if row.get("segmentation"):
                segmentation = _read_segmentation(row["segmentation"])
                if segmentation is None:
                    dropped += 1
                    continue
                annotation["segmentation"] = segmentation
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
            if id_map is not None:
                if row["category_id"] not in id_map:
                    raise KeyError(
                        f"annotation {row['id']} in {json_file} has category "
                        f"{row['category_id']}, which the file's categories do not list"
                    )
                annotation["category_id"] = id_map[row["category_id"]]
            annotations.append(annotation)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": annotations,
            }
        )
    logger.info(f"Loaded {len(records)} images in COCO format from {json_file}")
    if dropped:
        logger.warning(f"{json_file}: dropped {dropped} objects without a valid polygon")
    return records


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """
    Write the records of a registered dataset in COCO's instance format.

    Args:
        dataset_name: with "image_id" (else images are numbered from 0) and "annotations" in its
            records, and `thing_classes` in its metadata. Where these also have
            `thing_dataset_id_to_contiguous_id`, category ids are those of the dataset again.

    Returns:
        "images", "annotations" (numbered from 1, boxes as absolute XYWH) and "categories".
    """
    metadata = MetadataCatalog.get(dataset_name)
    id_map = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
    category_ids = {label: category for category, label in (id_map or {}).items()}
    images, annotations = [], []
    for index, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", index)
        facts = {key: record[key] for key in ("width", "height") if key in record}
        images.append({"id": image_id, **facts, "file_name": str(record["file_name"])})
        for row in record.get("annotations", ()):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category_ids.get(row["category_id"], row["category_id"]),
                "iscrowd": int(row.get("iscrowd", 0)),
            }
            box = [float(value) for value in row["bbox"]]
            box = BoxMode.convert(box, row["bbox_mode"], BoxMode.XYWH_ABS)
            annotation["bbox"] = [round(value, 3) for value in box]
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            segmentation = row.get("segmentation")
            if isinstance(segmentation, dict):  # run lengths
                annotation["area"] = float(mask_util.area(segmentation))
                counts = segmentation["counts"]
                counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
                segmentation = {**segmentation, "counts": counts}
            elif segmentation:
                segmentation = [[float(value) for value in polygon] for polygon in segmentation]
                annotation["area"] = PolygonMasks([segmentation]).area().item()
            if segmentation:
                annotation["segmentation"] = segmentation
            annotations.append(annotation)
    names = enumerate(metadata.thing_classes)
    categories = [{"id": category_ids.get(label, label), "name": name} for label, name in names]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str, image_root: str | os.PathLike
) -> None:
    """
    Register a dataset in COCO's instance format; the file is read at `DatasetCatalog.get(name)`.

    Args:
        name: the dataset's name, e.g. "coco_2014_train".
        metadata: further metadata. `thing_classes` may be left out, it is read from the file.
        json_file: the annotation file.
        image_root: folder of the images.
    """
    assert isinstance(name, str), f"a dataset name is a string, got {name!r}"
    assert isinstance(json_file, (str, os.PathLike)), f"json_file is a path, got {json_file!r}"
    assert isinstance(image_root, (str, os.PathLike)), f"image_root is a path, got {image_root!r}"
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
