"""Loads registered datasets for training and evaluation, and says what is wrong with them."""

import difflib
import logging
import math
import os
from collections.abc import Sequence

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import print_instances_class_histogram
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from .annotations import Annotations, has_area, shorten
from .records import check_records
from .registered import annotations_of, is_plain, listed, say_once


def load_dataset(
    names: str | Sequence[str],
    *,
    is_train: bool = True,
    filter_empty: bool = False,
    num_classes: int | None = None,
    masks: bool = False,
) -> list[dict]:
    """Load registered datasets after checking and repairing their annotations.

    Images without objects are kept by default: they teach what is background. What training leaves
    out is counted in the log, by reason.

    Args:
        names: one registered name, or several to be concatenated.
        is_train: whether there must be objects to learn from.
        filter_empty: whether to leave out images without objects that are not crowd regions.
        num_classes: what the model predicts; checked against the dataset's classes where given.
        masks: whether masks are trained: then objects without one are left out.

    Returns:
        detectron2's records, one dict per image.

    Raises:
        KeyError: a name is not registered.
        FileNotFoundError: the annotation file or the image folder is missing.
        ValueError: the file contradicts itself, the datasets do not suit each other or the model,
            or a function of the user's own fails or returns no records.
    """
    names = [names] if isinstance(names, str) else list(names)
    read = [read_dataset(name, num_classes) for name in names]
    for name in names[1:]:
        check_same_classes(names[0], name)
    for name in names:
        check_num_classes(name, num_classes)
    every = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    known = next((classes for classes in every if classes is not None), None)
    for name, records, classes in zip(names, read, every):
        if classes is None and known is not None:  # its classes are those of the others
            check_records(name, records, known)
    dicts = [record for records in read for record in records]
    if is_train:
        dicts = trainable(dicts, ", ".join(names), masks=masks)
    if filter_empty:
        dicts = [record for record in dicts if _objects(record) or "annotations" not in record]
        if not dicts:
            raise ValueError(
                f"{', '.join(names)}: no image has an object: set filter_empty=False to keep them"
            )
    classes = MetadataCatalog.get(names[0]).get("thing_classes")
    if classes is not None and any("annotations" in record for record in dicts[:1]):
        print_instances_class_histogram(dicts, classes)
    return dicts


def read_dataset(name: str, num_classes: int | None = None) -> list[dict]:
    """The records of one registered dataset, its annotation file checked and repaired.

    Args:
        name: a registered name.
        num_classes: what the model predicts, which bounds labels of classes without names.

    Raises:
        KeyError, FileNotFoundError, ValueError: see `load_dataset`.
    """
    check_registered(name)
    check_files(name)
    annotations = annotations_of(name)
    if annotations is not None and is_plain(name):
        return records_of(annotations, MetadataCatalog.get(name).get("image_root", ""))
    # A function of the user's own. What it reads by `load_coco_json` is repaired, too.
    try:
        records = DatasetCatalog.get(name)
    except Exception as error:  # it may raise anything
        raise ValueError(
            f"{name}: the function that it is registered with raised {type(error).__name__}: "
            f"{error}. Correct it, or what it reads"
        ) from error
    check_records(name, records, MetadataCatalog.get(name).get("thing_classes"), num_classes)
    return _without_empty_boxes(records, name)


def records_of(annotations: Annotations, image_root: str | os.PathLike) -> list[dict]:
    """detectron2's records, one dict per image, in the order of the image ids.

    Args:
        annotations: of a file in COCO or LVIS format.
        image_root: what the file names are relative to, see `file_name_of`.
    """
    lvis = annotations.kind == "lvis"
    labels = {category_id: label for label, category_id in enumerate(annotations.class_ids)}
    records = {}
    for image in sorted(annotations.images, key=lambda image: image["id"]):
        name = file_name_of(image, annotations.kind)
        records[image["id"]] = {
            "file_name": os.path.join(os.path.expanduser(image_root), name),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        if lvis:
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                records[image["id"]][key] = image[key]
    for annotation in annotations.annotations:
        record = records[annotation["image_id"]]
        entry = {
            "iscrowd": annotation["iscrowd"],
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": labels[annotation["category_id"]],
        }
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        if segmentation is not None:
            entry["segmentation"] = segmentation
        record["annotations"].append(entry)
    return list(records.values())


def file_name_of(image: dict, kind: str) -> str:
    """Where a picture is in its folder, by its entry in an annotation file.

    Args:
        image: of `Annotations.images`.
        kind: "coco" or "lvis". LVIS files that tell a `coco_url` mean a folder of it by the last
            but one part.
    """
    if kind == "lvis" and image.get("coco_url"):
        return os.path.join(*image["coco_url"].split("/")[-2:])
    return image["file_name"]


# ---------------------------------------------------------------------------------- checks


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


def check_num_classes(name: str, num_classes: int | None) -> None:
    """Raise ValueError unless a dataset has as many classes as the model predicts."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if num_classes is not None and classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"{name} has {len(classes)} classes ({shorten(classes)}), but the model predicts "
            f"{num_classes}: set model.num_classes={len(classes)}, or use the dataset that the "
            "model is meant for"
        )


def check_same_classes(name: str, other: str) -> None:
    """Raise ValueError unless two datasets that are loaded have the same classes in one order.

    A class is a place in the order of category ids, so the ids themselves may differ.
    """
    classes, others = (MetadataCatalog.get(n).get("thing_classes") for n in (name, other))
    if classes is None or others is None or list(classes) == list(others):
        return
    if sorted(classes) == sorted(others):
        what = "the same classes in another order of their ids"
    else:
        what = "other classes"
    at = next((i for i, (a, b) in enumerate(zip(classes, others)) if a != b), None)
    first = "" if at is None else f", first class {at}: {others[at]} instead of {classes[at]}"
    raise ValueError(
        f"{other} has {what} than {name}: {listed(others)} and {listed(classes)}{first}. A model "
        "knows a class by its place in this order alone: write the same `categories`, with the "
        "same ids, into both files, and the `category_id` of annotations by them. A category may "
        "be without annotations"
    )


# ---------------------------------------------------------------------------------- training


def trainable(dicts: list[dict], names: str, *, masks: bool = False) -> list[dict]:
    """Records without the objects that training cannot use; their numbers are logged.

    Args:
        dicts: detectron2's records.
        names: of the datasets, for the log.
        masks: whether masks are trained.

    Raises:
        ValueError: nothing is left to learn from.
    """
    crowds = sum(bool(a.get("iscrowd", 0)) for r in dicts for a in r.get("annotations", ()))
    if crowds:
        say_once(
            f"{names}: {crowds} annotations are crowd regions (`iscrowd` 1): training leaves them "
            "out, and evaluation does not count what is found there",
            logging.INFO,
        )
    objects = sum(len(_objects(record)) for record in dicts)
    if not objects:
        raise ValueError(
            f"{names}: none of the {len(dicts)} images has an object to learn from (an annotation "
            "of a listed category that is no crowd region and whose box is not empty); "
            f"{crowds} annotations are crowd regions. Check `annotations` in the file, and "
            "`iscrowd` in them: it is 1 for regions of many objects alone"
        )
    if not masks:
        return dicts
    dicts = [
        (
            {**record, "annotations": [a for a in record["annotations"] if _usable_for_masks(a)]}
            if "annotations" in record
            else record
        )
        for record in dicts
    ]
    left = sum(len(_objects(record)) for record in dicts)
    if not left:
        raise ValueError(
            f"{names}: none of the {objects} objects has a mask, but masks are trained. For data "
            "with boxes only, set use_instance_mask=False and recompute_boxes=False in "
            "dataloader.train.mapper, and dataloader.train.mix=None"
        )
    if left < objects:
        say_once(
            f"{names}: left out {objects - left} objects without a mask in training, as masks are "
            "trained"
        )
    return dicts


def _objects(record: dict) -> list[dict]:
    """The annotations of a record that are no crowd regions."""
    return [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def _usable_for_masks(annotation: dict) -> bool:
    return bool(annotation.get("iscrowd", 0) or annotation.get("segmentation"))


def _without_empty_boxes(dicts: list[dict], name: str) -> list[dict]:
    """Records without annotations whose box has no area inside its image; logs their number.

    COCO itself has a few boxes of zero width. A negative width would be turned around by
    transforms, and the box would come out as a valid one somewhere else.
    """
    kept, dropped = [], 0
    for record in dicts:
        if record.get("annotations"):
            size = record.get("height", math.inf), record.get("width", math.inf)
            annotations = [a for a in record["annotations"] if _has_area(a, *size)]
            dropped += len(record["annotations"]) - len(annotations)
            record = {**record, "annotations": annotations}
        kept.append(record)
    if dropped:
        say_once(
            f"{name}: left out {dropped} annotations whose box is empty or lies outside of its "
            "image"
        )
    return kept


def _has_area(annotation: dict, height: float, width: float) -> bool:
    """Whether the box of a record's annotation has an area inside an image of that size."""
    mode = annotation["bbox_mode"]
    if mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return True
    box = [float(v) for v in annotation["bbox"]]
    if mode == BoxMode.XYXY_ABS:
        box[2:] = box[2] - box[0], box[3] - box[1]
    return has_area(box, height, width)
