"""Counts of a data set, its faults, and what is worth a second look."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from co_detr.data.annotations import Annotations, read_annotations
from co_detr.data.dataset import records_of
from co_detr.data.formats.writing import Written

from .pictures import Look, look_at_all

FEW = 10  # objects of a class to train on, below which it is hardly learnt
SMALL, LARGE = 32, 96  # sides of squares between COCO's sizes of objects, pixels
OUTSIDE = 1.0  # pixels that a box may stick out, as by rounding
SHOWN = 3  # names in a message


@dataclass
class SurveyedSplit:
    """What a split holds.

    Args:
        name, json_file, image_root: of the split; file names are relative to the root.
        records: detectron2's, one per picture.
        objects: number by class name, for all classes, crowd regions aside.
        boxes: (N, 4) x, y, width, height in pixels, of these.
        missing, wrong_size: file names of pictures.
        broken: reason by file name.
        outside: boxes that stick out of their picture.
        notes: what was repaired or taken to mean something.
        has_masks: whether an object has a mask.
    """

    name: str
    json_file: Path
    image_root: Path
    records: list[dict]
    objects: Counter[str]
    boxes: np.ndarray
    missing: list[str] = field(default_factory=list)
    wrong_size: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    outside: int = 0
    notes: list[str] = field(default_factory=list)
    has_masks: bool = False

    @property
    def num_empty(self) -> int:
        """Pictures without an object."""
        return sum(not record["annotations"] for record in self.records)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of small, medium and large boxes, by area as in COCO."""
        areas = self.boxes[:, 2] * self.boxes[:, 3]
        small, large = int((areas < SMALL**2).sum()), int((areas >= LARGE**2).sum())
        return small, len(areas) - small - large, large


@dataclass
class Survey:
    """What a data set holds.

    Args:
        kind: the format, in words.
        splits: in the order train, val, test.
        classes: names, in the order of labels.
        copies: pairs of file names with the same pixels, of different splits.
        faults: what training or evaluation refuse or leave out.
        warnings: what may be meant, but spoils many a result.
    """

    kind: str
    splits: list[SurveyedSplit]
    classes: list[str]
    copies: list[tuple[str, str]]
    faults: list[str]
    warnings: list[str]


def survey(kind: str, written: Sequence[Written], quick: bool = False) -> Survey:
    """Look at all annotations and pictures.

    Args:
        kind: the format, in words.
        written: the splits, as training reads them.
        quick: whether pictures are only opened, not decoded: then copies are not found, nor
            pictures that are broken behind their head.

    Raises:
        ValueError: an annotation file has a fault that has no one meaning.
    """
    read = [read_annotations(str(each.json_file)) for each in written]
    records = [records_of(a, str(each.split.image_root)) for a, each in zip(read, written)]
    paths = [r["file_name"] for rs in records for r in rs if os.path.isfile(r["file_name"])]
    looks = look_at_all(paths, quick)
    splits = [_surveyed(*each, looks) for each in zip(written, read, records)]
    classes = read[0].class_names
    found = Survey(kind, splits, classes, _copies(splits, looks), [], [])
    if any(annotations.class_names != classes for annotations in read):
        found.faults.append(
            "the splits have other classes, or in another order: "
            + "; ".join(f"{s.name}: {', '.join(a.class_names)}" for s, a in zip(splits, read))
        )
    for each in written:
        found.faults += each.split.faults
    for split in splits:
        found.faults += faults_of(split)
        found.warnings += warnings_of(split)
    if found.copies:
        found.warnings.append(
            f"{len(found.copies)} pictures are in two splits, and flatter the evaluation: "
            + _first(f"{a} = {b}" for a, b in found.copies)
        )
    return found


def _surveyed(
    written: Written, annotations: Annotations, records: list[dict], looks: dict[str, Look]
) -> SurveyedSplit:
    split, classes = written.split, annotations.class_names
    objects = [(r, a) for r in records for a in r["annotations"] if not a["iscrowd"]]
    counts = Counter(dict.fromkeys(classes, 0))
    counts.update(classes[a["category_id"]] for _, a in objects)
    found = SurveyedSplit(
        name=split.name,
        json_file=written.json_file,
        image_root=split.image_root,
        records=records,
        objects=counts,
        boxes=np.array([a["bbox"] for _, a in objects], dtype=float).reshape(-1, 4),
        broken={os.fspath(error.file): error.reason for error in split.unreadable},
        outside=sum(_sticks_out(a["bbox"], r["height"], r["width"]) for r, a in objects),
        notes=[
            note
            for note in dict.fromkeys([*split.notes, *annotations.notes])
            if note not in split.faults
        ],
        has_masks=any("segmentation" in a for _, a in objects),
    )
    for record in records:
        path = record["file_name"]
        look = looks.get(path)
        if look is None:
            found.missing.append(path)
        elif look.fault:
            found.broken[path] = look.fault
        elif look.size != (record["height"], record["width"]):
            found.wrong_size.append(path)
    return found


def faults_of(split: SurveyedSplit) -> list[str]:
    """What training or evaluation refuse or leave out, a sentence each with the remedy."""
    faults = []
    if not len(split.boxes):
        faults.append(f"{split.name}: there are no objects in it")
    for what, files, remedy in (
        ("pictures are missing", split.missing, "fetch them, or remove their entries"),
        ("pictures have another size than annotated", split.wrong_size, "use those annotated"),
        (
            "pictures cannot be read",
            [f"{path} ({reason})" for path, reason in split.broken.items()],
            "fetch them again, or remove their entries; a few are left out",
        ),
    ):
        if files:
            faults.append(f"{split.name}: {len(files)} {what}: {_first(files)}: {remedy}")
    return faults


def warnings_of(split: SurveyedSplit) -> list[str]:
    """What may be meant, but spoils many a result."""
    warnings = []
    if split.outside:
        warnings.append(
            f"{split.name}: {split.outside} boxes stick out of their pictures, and are cut off"
        )
    least = FEW if split.name in ("train", "all") else 1
    few = [f"{name} ({count})" for name, count in split.objects.items() if count < least]
    if few and len(split.boxes):
        warnings.append(f"{split.name}: fewer than {least} objects of {_first(few, 10)}")
    return warnings


def _sticks_out(box: Sequence[float], height: float, width: float) -> bool:
    x, y, w, h = box
    return min(x, y) < -OUTSIDE or x + w > width + OUTSIDE or y + h > height + OUTSIDE


def _copies(splits: Sequence[SurveyedSplit], looks: dict[str, Look]) -> list[tuple[str, str]]:
    """Pictures with the same pixels in different splits; each picture of a later split once."""
    first: dict[bytes, str] = {}
    copies = []
    for split in splits:
        seen = {}
        for record in split.records:
            path = record["file_name"]
            digest = looks[path].digest if path in looks else None
            if digest is None:
                continue
            if digest in first:
                copies.append((first[digest], path))
            seen[digest] = path
        first = seen | first
    return copies


def _first(texts, number: int = SHOWN) -> str:
    """The first of several texts."""
    texts = list(texts)
    return ", ".join(texts[:number]) + (", ..." if len(texts) > number else "")
