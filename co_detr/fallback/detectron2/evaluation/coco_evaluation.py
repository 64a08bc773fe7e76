"""Average precision of boxes and masks by the rules of COCO."""

import contextlib
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from pycocotools.coco import COCO
from tabulate import tabulate

from co_detr.evaluation.coco_api import COCOeval
from detectron2._not_embedded import refuse
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .evaluator import DatasetEvaluator

_TASKS = ("bbox", "segm")
# name of the metric -> (IoU threshold or None for the mean of all, name of the size range)
_METRICS = OrderedDict(
    AP=(None, "all"),
    AP50=(0.5, "all"),
    AP75=(0.75, "all"),
    APs=(None, "small"),
    APm=(None, "medium"),
    APl=(None, "large"),
)


class COCOEvaluator(DatasetEvaluator):
    """Evaluates detections of a registered dataset that has a COCO-format annotation file.

    Every rank feeds its share of the images; the first rank collects and evaluates them all.
    Results are percentages: {"bbox": {"AP": ..., "AP50": ..., "AP-<category>": ...}, "segm": ...},
    NaN where nothing can be measured (no object of that size or category).
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | CfgNode | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ):
        """
        Args:
            dataset_name: a dataset whose metadata holds `json_file`, the path of an annotation
                file, or `thing_classes`; then its records are what it is evaluated by.
            tasks: of "bbox" and "segm"; None, or a config, for all that the predictions have.
            distributed: whether to collect the predictions of all ranks.
            output_dir: where to write coco_instances_results.json and instances_predictions.pth;
                None to write nothing.
            max_dets_per_image: detections per image and category that count, the best first.
                None means 100.
            use_fast_impl: accepted so that configurations carry over; there is one implementation
                here, hotcoco, with the results of pycocotools.
            kpt_oks_sigmas: not supported here, to be left as it is.
            allow_cached_coco: accepted like `use_fast_impl`; records are read anew each time.

        Raises:
            AttributeError: the metadata hold neither.
            ValueError: what is not supported is asked for.
        """
        refuse("COCOEvaluator", kpt_oks_sigmas=kpt_oks_sigmas)
        self._logger = logging.getLogger(__name__)
        # where configs once were, and the tasks went by the predictions
        tasks = None if isinstance(tasks, CfgNode) else tasks
        self._tasks = tuple(tasks) if tasks is not None else None
        self._distributed = distributed
        self._output_dir = output_dir
        limit = 100 if max_dets_per_image is None else int(max_dets_per_image)
        self._max_dets = [min(1, limit), min(10, limit), limit]
        self._metadata = MetadataCatalog.get(dataset_name)
        if hasattr(self._metadata, "json_file"):
            with open(PathManager.get_local_path(self._metadata.json_file), "rb") as file:
                content = json.load(file)  # of UTF-8, -16 or -32, with or without a mark
        elif hasattr(self._metadata, "thing_classes"):
            content = convert_to_coco_dict(dataset_name)
        else:
            raise AttributeError(
                f"the metadata of '{dataset_name}' has neither json_file nor thing_classes: "
                "register the dataset with register_coco_instances, or name its classes by "
                f"MetadataCatalog.get('{dataset_name}').thing_classes = [...]"
            )
        content.setdefault("info", {})  # loadRes copies it
        # pycocotools takes the id 0 for "not matched" and keeps ids as floats; nobody sees them
        for number, annotation in enumerate(content.get("annotations", ()), start=1):
            annotation["id"] = number
        self._coco_api = COCO()
        self._coco_api.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        self._predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take a batch: dicts with "image_id", and dicts with "instances" as the models return."""
        for item, output in zip(inputs, outputs):
            prediction = {"image_id": item["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                prediction["instances"] = instances_to_coco_json(instances, item["image_id"])
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self, img_ids: Iterable[int] | None = None) -> dict[str, dict[str, float]]:
        """Evaluate what was collected.

        Args:
            img_ids: restricts the evaluation to these images.

        Returns:
            The results on the main process, {} on the others, without any processed image, or
            when the annotation file has no annotations.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(predictions, dst=0)
            if not comm.is_main_process():
                return {}
            predictions = list(itertools.chain(*gathered))
        if not predictions:
            self._logger.warning("No predictions were collected; nothing to evaluate.")
            return {}

        detections = [dict(d) for p in predictions for d in p.get("instances", [])]
        tasks = self._tasks or self._tasks_of(detections)
        self._restore_category_ids(detections)
        if self._output_dir:
            self._write(predictions, detections)
        if "annotations" not in self._coco_api.dataset:
            self._logger.info("The annotation file has no annotations: results are only written.")
            return {}
        results: dict[str, dict[str, float]] = OrderedDict()
        for task in tasks:
            assert task in _TASKS, f"there is no task '{task}', choose from {_TASKS}"
            results[task] = self._evaluate_task(task, detections, img_ids)
        return results

    @staticmethod
    def _tasks_of(detections: list[dict[str, Any]]) -> tuple[str, ...]:
        with_masks = any("segmentation" in detection for detection in detections)
        return _TASKS if with_masks else _TASKS[:1]

    def _restore_category_ids(self, detections: list[dict[str, Any]]) -> None:
        """Replace labels 0..K-1 by the category ids of the annotation file, in place."""
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return
        id_map = self._metadata.thing_dataset_id_to_contiguous_id
        original = {label: category for category, label in id_map.items()}
        for detection in detections:
            label = detection["category_id"]
            if label not in original:
                raise AssertionError(
                    f"a prediction has class {label}, but the dataset's {len(original)} classes "
                    f"are 0..{len(original) - 1}: does the model's num_classes fit the dataset?"
                )
            detection["category_id"] = original[label]

    def _write(self, predictions: list[dict[str, Any]], detections: list[dict[str, Any]]) -> None:
        PathManager.mkdirs(self._output_dir)
        with PathManager.open(
            os.path.join(self._output_dir, "instances_predictions.pth"), "wb"
        ) as f:
            torch.save(predictions, f)
        path = os.path.join(self._output_dir, "coco_instances_results.json")
        self._logger.info("Saving results to %s", path)
        with PathManager.open(path, "w") as f:
            json.dump(detections, f)

    def _evaluate_task(
        self, task: str, detections: list[dict[str, Any]], img_ids: Iterable[int] | None
    ) -> dict[str, float]:
        if not detections:
            self._logger.warning("No detections at all for %s.", task)
            return {name: float("nan") for name in _METRICS}
        if task == "segm":
            # the area is taken from the box where there is one; a mask has its own
            detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]

        evaluation = COCOeval(self._coco_api, detections, task)
        evaluation.params.maxDets = self._max_dets
        if img_ids is not None:
            evaluation.params.imgIds = list(img_ids)
        report = io.StringIO()
        with contextlib.redirect_stdout(report):
            evaluation.evaluate()
            evaluation.accumulate()
            if self._max_dets[-1] == 100:  # pycocotools' own summary knows no other limit
                evaluation.summarize()
        table = [line for line in report.getvalue().splitlines() if "Average" in line]
        self._logger.info("Evaluation of %s:\n%s", task, "\n".join(table))
        names = getattr(self._metadata, "thing_classes", None)
        return self._derive_coco_results(evaluation, task, names)

    def _derive_coco_results(
        self, evaluation: Any, task: str, names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The numbers of an evaluation of a task, and the AP of each class if there are names."""
        precision = evaluation.eval["precision"]  # thresholds, recalls, categories, sizes, limits
        params = evaluation.params
        results: dict[str, float] = OrderedDict()
        for name, (threshold, size) in _METRICS.items():
            chosen = precision[:, :, :, params.areaRngLbl.index(size), -1]
            if threshold is not None:
                chosen = chosen[np.isclose(params.iouThrs, threshold)]
            results[name] = _mean_percent(chosen)
        self._logger.info("Results for %s:\n%s", task, create_small_table(results))
        undefined = [name for name, value in results.items() if np.isnan(value)]
        if undefined:
            self._logger.info("Not defined on this dataset, shown as NaN: %s", undefined)

        if names is None or len(names) <= 1:
            return results
        assert len(names) == precision.shape[2], (
            f"the metadata names {len(names)} classes, the annotation file has "
            f"{precision.shape[2]} categories"
        )
        all_sizes = params.areaRngLbl.index("all")
        per_category = [
            (name, _mean_percent(precision[:, :, index, all_sizes, -1]))
            for index, name in enumerate(names)
        ]
        self._logger.info("Per category, %s AP:\n%s", task, _columns(per_category))
        results.update({f"AP-{name}": value for name, value in per_category})
        return results


def instances_to_coco_json(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Write the detections of an image as COCO-style results.

    Args:
        instances: on the CPU; `pred_boxes` (absolute XYXY), `scores`, `pred_classes` and
            optionally `pred_masks`, a bool tensor (detections, height, width).
        image_id: of the image.

    Returns:
        One dict per detection, with the class still as a label, boxes as XYWH, and masks as
        run lengths that json can hold.
    """
    if len(instances) == 0:
        return []
    boxes = instances.pred_boxes.tensor
    boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    results = [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for label, box, score in zip(
            instances.pred_classes.tolist(), boxes, instances.scores.tolist()
        )
    ]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks):
            encoded = mask_util.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8)))
            encoded["counts"] = encoded["counts"].decode("ascii")
            result["segmentation"] = encoded
    return results


def _mean_percent(precision: np.ndarray) -> float:
    """Mean of the defined entries (those above -1) in percent; NaN without any."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def _columns(pairs: list[tuple[str, float]], width: int = 3) -> str:
    """A table of (name, value) pairs, several to a line."""
    rows = [
        list(itertools.chain(*pairs[start : start + width]))
        for start in range(0, len(pairs), width)
    ]
    headers = ["category", "AP"] * min(width, len(pairs))
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
