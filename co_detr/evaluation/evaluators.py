"""detectron2's evaluators of COCO and LVIS, on the annotations that training sees.

Whatever ids a file has and whatever it leaves open, objects that are found count as found. Both
detectron2s' evaluators become these, with three differences:

- the annotation file is checked and repaired first, see `co_detr.data.annotations`;
- a model that finds nothing has an AP of 0 where there are objects, which detectron2 has as NaN;
- `LVISEvaluator` runs with a numpy that has no `numpy.float`.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import detectron2.evaluation
import numpy as np
from detectron2.data import MetadataCatalog

from co_detr.data.annotations import Annotations
from co_detr.data.registered import annotations_of, say_once

# least and greatest area in pixels of small, medium and large objects
SIZES = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, math.inf)}


class COCOEvaluator(detectron2.evaluation.COCOEvaluator):
    """detectron2's `COCOEvaluator`, with its arguments; see the head of this file."""

    def __init__(
        self, dataset_name: str, tasks: Sequence[str] | None = None, *args: Any, **kwargs: Any
    ):
        self._dataset_name = dataset_name
        tasks = measurable(tasks, dataset_name, annotations_of(dataset_name, "coco"))
        super().__init__(dataset_name, tasks, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        """See detectron2."""
        return with_zeros(super().evaluate(*args, **kwargs) or {}, self._dataset_name, "coco")


class LVISEvaluator(detectron2.evaluation.LVISEvaluator):
    """detectron2's `LVISEvaluator`, with its arguments; see the head of this file."""

    def __init__(
        self, dataset_name: str, tasks: Sequence[str] | None = None, *args: Any, **kwargs: Any
    ):
        self._dataset_name = dataset_name
        give_lvis_its_float()
        tasks = measurable(tasks, dataset_name, annotations_of(dataset_name, "lvis"))
        super().__init__(dataset_name, tasks, *args, **kwargs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """See detectron2."""
        return with_zeros(super().evaluate() or {}, self._dataset_name, "lvis")


def measurable(
    tasks: Sequence[str] | None, dataset_name: str, annotations: Annotations | None
) -> Sequence[str] | None:
    """The tasks to evaluate: boxes alone where all was asked for and a dataset has no masks.

    Args:
        tasks: of "bbox" and "segm", or None for all that the predictions have.
        dataset_name: for messages.
        annotations: of that dataset, or None where they are not known.

    Raises:
        ValueError: masks were asked for, and there are none.
    """
    rows = [] if annotations is None else annotations.annotations
    if not rows or any("segmentation" in row for row in rows):
        return tasks
    if "segm" in (tasks or ()):
        raise ValueError(
            f"{dataset_name} has no masks to evaluate: its annotations have no `segmentation`. Set "
            "dataloader.evaluator.tasks=[bbox], or use a dataset with masks"
        )
    if tasks is None:
        say_once(f"{dataset_name} has no masks: boxes alone are evaluated", logging.INFO)
    return tasks or ["bbox"]


def with_zeros(
    results: Mapping[str, Mapping[str, float]], dataset_name: str, kind: str
) -> dict[str, Any]:
    """Results whose AP is 0 where nothing was found, and NaN only where there is nothing to find.

    Args:
        results: of an evaluator, {task: {metric: percent}}.
        dataset_name: what was evaluated on.
        kind: "coco" or "lvis", for metadata without `evaluator_type`.
    """
    unmeasured = [task for task, metrics in results.items() if math.isnan(metrics.get("AP", 0))]
    annotations = annotations_of(dataset_name, kind) if unmeasured else None
    if annotations is None:
        return dict(results)
    objects = [a for a in annotations.annotations if not a["iscrowd"]]
    zeros = dict.fromkeys(("AP", "AP50", "AP75"), 0.0 if objects else math.nan)
    for size, (least, most) in SIZES.items():
        there = any(least <= annotation["area"] <= most for annotation in objects)
        zeros[f"AP{size}"] = 0.0 if there else math.nan
    found = {annotation["category_id"] for annotation in objects}
    if annotations.kind == "lvis":
        frequencies = {c["frequency"] for c in annotations.categories if c["id"] in found}
        zeros.update({f"AP{f}": 0.0 if f in frequencies else math.nan for f in "rcf"})
    elif len(annotations.categories) > 1:
        names = MetadataCatalog.get(dataset_name).get("thing_classes", annotations.class_names)
        for name, category_id in zip(names, annotations.class_ids):
            zeros[f"AP-{name}"] = 0.0 if category_id in found else math.nan
    return {**results, **{task: dict(zeros) for task in unmeasured}}


def give_lvis_its_float() -> None:
    """Let the `lvis` package (0.5.3) find `numpy.float`, which numpy has no more since 1.24.

    Only the name `np` of its module is replaced; numpy stays as it is.
    """
    import lvis.eval

    if "float" not in vars(lvis.eval.np):
        lvis.eval.np = SimpleNamespace(**vars(np), float=float)
