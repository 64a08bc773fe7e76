"""Loads registered datasets for training and evaluation, and says what is wrong with them."""

import difflib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)


def load_dataset(
    names: str | Sequence[str],
    *,
    is_train: bool = True,
    filter_empty: bool = False,
    num_classes: int | None = None,
) -> list[dict]:
    """Load registered datasets after checking them.

    Images without objects are kept by default: they teach what is background. In training,
    annotations whose box is empty inside its image are dropped, and their number is logged.

    Args:
        names: one registered name, or several to be concatenated.
        is_train: whether there must be objects to learn from.
        filter_empty: whether to leave out images without objects that are not crowd regions.
        num_classes: what the model predicts; checked against the dataset's classes where given.

    Returns:
        detectron2's records, one dict per image.

    Raises:
        KeyError: a name is not registered.
        FileNotFoundError: the annotation file or the image folder is missing.
        ValueError: the file contradicts itself, or the dataset does not suit the model.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        check_registered(name)
        check_files(name)
        # One reader is enough: the file is the same for all processes.
        metadata = MetadataCatalog.get(name)
        kind = metadata.get("evaluator_type")
        if kind in ("coco", "lvis") and comm.is_main_process():
            check_annotation_file(PathManager.get_local_path(metadata.json_file), kind)

    dicts = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    for name in names:
        check_num_classes(name, num_classes)
    if is_train:
        drop_empty_boxes(dicts, names)
        if not any(
            not annotation.get("iscrowd", 0)
            for record in dicts
            for annotation in record.get("annotations", ())
        ):
            raise ValueError(
                f"{', '.join(names)}: none of the {len(dicts)} images has an object to learn from "
                "(an annotation of a listed category that is no crowd region and whose box is not "
                "empty). Check `annotations` in the file, or whether it is the right file"
            )
    return dicts


def check_registered(name: str) -> None:
    """Raise KeyError with the closest names unless the dataset is registered."""
    registered = DatasetCatalog.list()
    if name not in registered:
        close = difflib.get_close_matches(name, registered) or sorted(registered)
        raise KeyError(
            f"no dataset is registered as '{name}'. Close or known names: {', '.join(close)}. "
            "Register your own with detectron2.data.datasets.register_coco_instances"
        )


def check_files(name: str) -> None:
    """Raise FileNotFoundError unless annotation file and image folder of a dataset are there."""
    metadata = MetadataCatalog.get(name)
    for kind, key, exists in (
        ("annotation file", "json_file", PathManager.isfile),
        ("image folder", "image_root", PathManager.isdir),
    ):
        path = metadata.get(key)
        if path is not None and not exists(path):
            remedy = metadata.get("remedy", "datasets/README.md shows what belongs where")
            raise FileNotFoundError(
                f"{name}: no {kind} {path} (looked for in {os.getcwd()}). {remedy}, or set "
                "DETECTRON2_DATASETS to the folder that holds your datasets"
            )


def check_annotation_file(json_file: str, kind: str = "coco") -> None:
    """Look for contradictions in an annotation file that would spoil training in silence.

    Raises ValueError naming the file, the first offender and the remedy: no JSON, missing
    sections, images without name or size, repeated image or annotation ids, annotations of
    unlisted images or categories, boxes that are not four finite numbers.

    Args:
        json_file: a local path.
        kind: "coco" or "lvis"; the latter wants category ids from 1 without gaps.
    """
    try:
        with open(json_file) as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{json_file} is no JSON file ({error}): fetch it again") from error
    sections = ("images", "categories")
    if not isinstance(content, dict) or any(key not in content for key in sections):
        raise ValueError(
            f"{json_file} is no {kind.upper()} detection file: it needs the lists `images`, "
            "`categories` and, for training, `annotations`"
        )

    _check_unique(json_file, "image", content["images"])
    _check_unique(json_file, "category", content["categories"])
    annotations = content.get("annotations", [])
    if any("id" in annotation for annotation in annotations):
        _check_unique(json_file, "annotation", annotations)

    for image in content["images"]:
        _check_image(json_file, image)
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    if kind == "lvis" and categories != set(range(1, len(categories) + 1)):
        raise ValueError(
            f"{json_file} has the category ids {_shorten(sorted(categories))}: in LVIS format they "
            f"run from 1 to their number, {len(categories)}. Number them anew, or register the "
            "file with register_coco_instances"
        )
    for number, annotation in enumerate(annotations):
        where = f"{json_file}: annotation {annotation.get('id', f'number {number}')}"
        if annotation.get("image_id") not in images:
            raise ValueError(
                f"{where} belongs to image {annotation.get('image_id')}, which `images` does not "
                "list: add the image or remove the annotation"
            )
        if annotation.get("category_id") not in categories:
            raise ValueError(
                f"{where} has category_id {annotation.get('category_id')}, which `categories` "
                f"does not list (it has {_shorten(sorted(categories))}): add it there or correct "
                "the annotation"
            )
        box = annotation.get("bbox")
        if not _is_box(box):
            raise ValueError(
                f"{where} has the bbox {box}: it must be four finite numbers x, y, width, height "
                "in pixels. Correct or remove the annotation"
            )


def check_num_classes(name: str, num_classes: int | None) -> None:
    """Raise ValueError unless a dataset has as many classes as the model predicts."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if num_classes is not None and classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"{name} has {len(classes)} classes ({_shorten(classes)}), but the model predicts "
            f"{num_classes}: set model.num_classes={len(classes)}, or use the dataset that the "
            "model is meant for"
        )


def drop_empty_boxes(dicts: list[dict], names: Sequence[str]) -> int:
    """Remove, in place, annotations whose box has no area inside its image; returns how many.

    COCO itself has a few boxes of zero width. A negative width would be turned around by
    transforms, and the box would come out as a valid one somewhere else.
    """
    dropped = 0
    for record in dicts:
        annotations = record.get("annotations")
        if annotations:
            size = record.get("height", math.inf), record.get("width", math.inf)
            kept = [a for a in annotations if "bbox" not in a or _has_area(a, *size)]
            dropped += len(annotations) - len(kept)
            record["annotations"] = kept
    if dropped:
        logger.warning(
            f"{', '.join(names)}: left out {dropped} annotations whose box is empty or lies "
            "outside of its image"
        )
    return dropped


def _has_area(annotation: dict, height: float, width: float) -> bool:
    """Whether the box of a record's annotation has an area inside an image of that size."""
    mode = BoxMode(annotation.get("bbox_mode", BoxMode.XYXY_ABS))
    if mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return True
    box = [float(v) for v in annotation["bbox"]]
    if not all(map(math.isfinite, box)):
        raise ValueError(f"a record has the bbox {box}: it must be finite numbers. Correct it")
    x1, y1, x2, y2 = box
    if mode == BoxMode.XYWH_ABS:
        x2, y2 = x1 + x2, y1 + y2
    return min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)


def _check_image(json_file: str, image: dict) -> None:
    """Raise ValueError unless an image of an annotation file has a name and a size."""
    sizes = image.get("height"), image.get("width")
    if not all(isinstance(side, int | float) and side > 0 for side in sizes):
        raise ValueError(
            f"{json_file}: image {image['id']} has height and width {sizes}: give them in pixels"
        )
    if not (image.get("file_name") or image.get("coco_url")):
        raise ValueError(f"{json_file}: image {image['id']} has no file_name: add it")


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
    )


def _check_unique(json_file: str, kind: str, entries: list[dict]) -> None:
    """Raise ValueError unless every entry has an id of its own."""
    missing = next((entry for entry in entries if "id" not in entry), None)
    if missing is not None:
        raise ValueError(f"{json_file}: the {kind} {missing} has no `id`: give it one")
    value, count = (
        Counter(entry["id"] for entry in entries).most_common(1)[0] if entries else (0, 0)
    )
    if count > 1:
        raise ValueError(
            f"{json_file}: {count} entries have the {kind} id {value}; only one of them would be "
            "used. Give each its own id"
        )


def _shorten(values: Sequence) -> str:
    """At most ten of the values, as text."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
