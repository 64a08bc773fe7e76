"""Checks of detectron2's records that a user's own function makes."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from detectron2.structures import BoxMode

from .values import is_finite

MODES = tuple(BoxMode)
TURNED = getattr(BoxMode, "XYWHA_ABS", None)  # the embedded detectron2 has no turned boxes


def check_records(
    name: str,
    records: Any,
    class_names: Sequence[str] | None,
    num_classes: int | None = None,
) -> None:
    """Check that records have the form that detectron2 defines, as far as all mappers rely on it.

    Args:
        name: of the dataset.
        records: what its function has returned.
        class_names: of the classes 0, 1, ...; None where they are not known.
        num_classes: what the model predicts, for classes without names; None for any number.

    Raises:
        ValueError: they have not; names the record, the value and the remedy.
    """
    remedy = f"Correct the function that {name} is registered with"
    if not isinstance(records, list | tuple):
        raise ValueError(
            f"{name} has no list of records, but a value of the type {type(records).__name__}. "
            f"{remedy}"
        )
    if not records:
        raise ValueError(f"{name} has no images. {remedy}")
    if class_names is not None:
        labels = f"from 0 to {len(class_names) - 1}"
        num_classes = len(class_names)
    elif num_classes is not None:
        labels = f"from 0 to {num_classes - 1}, as the model predicts {num_classes} classes"
    else:
        labels = "from 0"
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{name}: record {number} is {record!r:.80}, no dict. {remedy}")
        where = f"{name}: record {number}, of {record.get('file_name')!r},"
        for key in ("height", "width"):
            side = record.get(key, 1)
            if not isinstance(side, Integral) or int(side) < 1:
                raise ValueError(
                    f"{where} has the {key} {side!r:.80}, no number of pixels. {remedy}"
                )
        annotations = record.get("annotations", [])
        if not isinstance(annotations, list | tuple):
            raise ValueError(f"{where} has annotations {annotations!r:.80}, no list. {remedy}")
        for annotation in annotations:
            if fault := _fault_of(annotation, num_classes, labels):
                raise ValueError(f"{where} has an annotation {fault}. {remedy}")


def check_sizes(records: Sequence[dict]) -> None:
    """Raise ValueError unless all records tell height and width, by which batches are made of wide
    pictures or of high ones."""
    for number, record in enumerate(records):
        for key in ("height", "width"):
            if key not in record:
                raise ValueError(
                    f"record {number}, of {record.get('file_name')!r}, has no {key}, by which wide "
                    "pictures are told from high ones. Correct the function that its dataset is "
                    "registered with, or set dataloader.train.aspect_ratio_grouping=False"
                )


def _fault_of(annotation: Any, num_classes: int | None, labels: str) -> str | None:
    """What is wrong with an annotation of a record; `labels` says which there are."""
    if not isinstance(annotation, dict):
        return f"{annotation!r:.80}, which is no dict"
    label = annotation.get("category_id")
    most = float("inf") if num_classes is None else num_classes
    if not isinstance(label, Integral) or not 0 <= int(label) < most:
        return f"with the category_id {label!r:.80}, which must be the number of a class, {labels}"
    mode = annotation.get("bbox_mode")
    if not isinstance(mode, int) or mode not in MODES:
        return f"with the bbox_mode {mode!r:.80}, which must be one of detectron2's BoxMode"
    box = annotation.get("bbox")
    count = 5 if mode == TURNED else 4
    if not _are_numbers(box, count):
        return f"with the bbox {box!r:.80}, which must be {count} finite numbers"
    return None


def _are_numbers(values: Any, count: int) -> bool:
    try:
        values = list(values)
    except TypeError:
        return False
    return len(values) == count and all(isinstance(v, Real) and is_finite(v) for v in values)
