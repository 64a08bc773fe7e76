"""From the name of a registered dataset to its annotations, repaired."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

from .annotations import Annotations, read_annotations, shorten
from .truth import share_repaired

# Functions of these modules read no more than an annotation file.
_DETECTRON2 = ("detectron2.data.datasets.coco", "detectron2.data.datasets.lvis")


def annotations_of(name: str, default: str | None = None) -> Annotations | None:
    """The repaired annotations of a registered dataset; each kind of repair is logged once.

    From then on, detectron2's loaders and evaluators read what was repaired, and the metadata of a
    dataset that detectron2 has registered tell its classes.

    Args:
        name: a registered name.
        default: "coco" or "lvis", for metadata without `evaluator_type`.

    Returns:
        None where the metadata name no file in COCO or LVIS format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has faults that have no one meaning, or other classes than the
            metadata.
    """
    metadata = MetadataCatalog.get(name)
    kind, json_file = metadata.get("evaluator_type", default), metadata.get("json_file")
    if kind not in ("coco", "lvis") or json_file is None:
        return None
    local = os.fspath(json_file)
    if not os.path.isfile(local):  # a URL, or missing
        local = PathManager.get_local_path(local)
    any_ids = kind == "lvis" and metadata.get("thing_dataset_id_to_contiguous_id") is not None
    annotations = read_annotations(local, kind, any_ids=any_ids)
    if annotations.notes:
        share_repaired(local, kind, any_ids)
    for note in annotations.notes:
        say_once(f"{json_file}: {note}")
    if is_plain(name):
        _describe(name, annotations)
    return annotations


def is_plain(name: str) -> bool:
    """Whether detectron2 has registered a dataset, so that its file and folder are all of it."""
    return (
        name in DatasetCatalog and getattr(DatasetCatalog[name], "__module__", None) in _DETECTRON2
    )


def say_once(message: str, level: int = logging.WARNING) -> None:
    """Log a message on the main process, the first time that it is said."""
    if comm.is_main_process():
        log_first_n(level, message, name=__name__, key="message")


def listed(names: Sequence[str]) -> str:
    """The first names of classes, and how many there are."""
    return f"[{shorten(names)}] ({len(names)})"


def _describe(name: str, annotations: Annotations) -> None:
    """Tell a dataset's metadata the classes of its file.

    Raises:
        ValueError: the dataset was registered with other names.
    """
    metadata = MetadataCatalog.get(name)
    names, ids = annotations.class_names, annotations.class_ids
    known = metadata.get("thing_classes")
    plain = [name.removesuffix(f" (id {i})") for name, i in zip(names, ids)]
    lvis = annotations.kind == "lvis"  # where a category has several names
    if known is not None and (len(known) != len(names) if lvis else known not in (names, plain)):
        raise ValueError(
            f"{name} was registered with the classes {listed(known)}, but {annotations.json_file} "
            f"has {listed(names)}: correct `thing_classes`, or leave it out to take those of the "
            "file"
        )
    facts: dict[str, Any] = {"thing_classes": names} if known is None or not lvis else {}
    if lvis:
        facts["class_image_count"] = metadata.get("class_image_count") or [
            {"id": category["id"], "image_count": category["image_count"]}
            for category in annotations.categories
        ]
    else:
        facts["thing_dataset_id_to_contiguous_id"] = {i: label for label, i in enumerate(ids)}
    for key, value in facts.items():
        if metadata.get(key) != value:
            if metadata.get(key) is not None:
                delattr(metadata, key)  # a fact is set once
            setattr(metadata, key, value)
