"""detectron2's evaluators of COCO and LVIS, on the annotations that training sees.

Whatever ids a file has and whatever it leaves open, objects that are found count as found. Both
detectron2s' evaluators become these, with four differences:

- the annotation file is checked and repaired first, see `co_detr.data.annotations`;
- pictures that the model was not given, since they could not be read, are left out;
- a model that finds nothing has an AP of 0 where there are objects, which detectron2 has as NaN;
- `hotcoco` does the work of `pycocotools` and of `lvis`, which need not be installed, with the same
  results in a fraction of the time.
"""

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import detectron2.evaluation
import detectron2.evaluation.coco_evaluation
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from co_detr.data.annotations import Annotations
from co_detr.data.registered import annotations_of, say_once

from .coco_api import used_in
from .lvis_api import instead_of_lvis

# least and greatest area in pixels of small, medium and large objects
SIZES = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, math.inf)}


class COCOEvaluator(detectron2.evaluation.COCOEvaluator):
    """detectron2's `COCOEvaluator`, with its arguments; see the head of this file."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | CfgNode | None = None,
        *args: Any,
        **kwargs: Any,
    ):
        self._dataset_name = dataset_name
        tasks = measurable(tasks, dataset_name, annotations_of(dataset_name, "coco"))
        super().__init__(dataset_name, tasks, *args, **kwargs)

    def evaluate(self, img_ids: Iterable[int | str] | None = None) -> dict[str, dict[str, float]]:
        """See detectron2; without `img_ids`, on the pictures that were processed."""
        seen = images_seen(self)
        ids: Any = img_ids if img_ids is not None else seen  # detectron2 writes: numbers
        with used_in(detectron2.evaluation.coco_evaluation):
            results = super().evaluate(img_ids=ids)
        return with_zeros(results or {}, self._dataset_name, "coco")


class LVISEvaluator(detectron2.evaluation.LVISEvaluator):
    """detectron2's `LVISEvaluator`, with its arguments; see the head of this file."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | CfgNode | None = None,
        *args: Any,
        **kwargs: Any,
    ):
        self._dataset_name = dataset_name
        tasks = measurable(tasks, dataset_name, annotations_of(dataset_name, "lvis"))
        with instead_of_lvis():
            super().__init__(dataset_name, tasks, *args, **kwargs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """See detectron2; on the pictures that were processed."""
        with instead_of_lvis(), only_images(self._lvis_api, images_seen(self)):
            results = super().evaluate()
        return with_zeros(results or {}, self._dataset_name, "lvis")


def images_seen(evaluator: Any) -> list[int | str]:
    """The ids of the pictures that evaluators of all ranks have processed; every rank must ask."""
    own = {prediction["image_id"] for prediction in evaluator._predictions}
    ranks = comm.all_gather(own) if evaluator._distributed else [own]
    return sorted(set().union(*ranks))


@contextlib.contextmanager
def only_images(lvis_api: Any, image_ids: Sequence[int | str]) -> Iterator[None]:
    """Inside, an `LVIS` knows of no other pictures than these."""
    dataset, kept = lvis_api.dataset, set(image_ids)
    lvis_api.dataset = {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] in kept],
        "annotations": [a for a in dataset["annotations"] if a["image_id"] in kept],
    }
    lvis_api._create_index()
    try:
        yield
    finally:
        lvis_api.dataset = dataset
        lvis_api._create_index()


def measurable(
    tasks: Sequence[str] | CfgNode | None, dataset_name: str, annotations: Annotations | None
) -> Sequence[str] | None:
    """The tasks to evaluate: boxes alone where all was asked for and a dataset has no masks.

    Args:
        tasks: of "bbox" and "segm", or None for all that the predictions have. A config, which
            detectron2 once took in this place, is as good as None.
        dataset_name: for messages.
        annotations: of that dataset, or None where they are not known.

    Raises:
        ValueError: masks were asked for, and there are none.
    """
    if isinstance(tasks, CfgNode):
        tasks = None
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
