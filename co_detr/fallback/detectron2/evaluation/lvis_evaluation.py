"""Average precision by the rules of LVIS: federated annotations, categories by frequency."""

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from co_detr.evaluation.lvis_api import LVIS, LVISEval, LVISResults
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .coco_evaluation import instances_to_coco_json
from .evaluator import DatasetEvaluator

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
_DEFAULT_MAX_DETS = 300


class LVISEvaluator(DatasetEvaluator):
    """Evaluates detections of a registered dataset that has an LVIS-format annotation file.

    Results are percentages by size (s, m, l) and by frequency of
    the category in training (r, c, f); NaN where nothing can be measured.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | CfgNode | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
    ):
        """
        Args:
            dataset_name: a dataset whose metadata holds `json_file`.
            tasks: of "bbox" and "segm"; None, or a config, for all that the predictions have.
            distributed: whether to collect the predictions of all ranks.
            output_dir: where to write lvis_instances_results.json; None to write nothing.
            max_dets_per_image: detections of an image that count, over all categories, the best
                first. None means 300, LVIS's own limit.
        """
        self._logger = logging.getLogger(__name__)
        # where configs once were, and the tasks went by the predictions
        tasks = None if isinstance(tasks, CfgNode) else tasks
        self._tasks = tuple(tasks) if tasks is not None else None
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = _DEFAULT_MAX_DETS if max_dets_per_image is None else max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            raise AttributeError(
                f"the metadata of '{dataset_name}' has no json_file: register the dataset with "
                "register_lvis_instances"
            )
        self._lvis_api = LVIS(PathManager.get_local_path(self._metadata.json_file))
        # ids may be no numbers, or not unique; nobody sees them
        for number, annotation in enumerate(self._lvis_api.dataset["annotations"], start=1):
            annotation["id"] = number
        self._lvis_api._create_index()
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
            self._predictions.append(prediction)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Evaluate what was collected; {} on ranks but the first and without any image."""
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
        tasks = self._tasks
        if tasks is None:
            with_masks = any("segmentation" in detection for detection in detections)
            tasks = ("bbox", "segm") if with_masks else ("bbox",)
        self._restore_category_ids(detections)
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "lvis_instances_results.json")
            self._logger.info("Saving results to %s", path)
            with PathManager.open(path, "w") as f:
                json.dump(detections, f)
        if not self._lvis_api.dataset["annotations"]:
            self._logger.info("The annotation file has no annotations: results are only written.")
            return {}
        return OrderedDict((task, self._evaluate_task(task, detections)) for task in tasks)

    def _restore_category_ids(self, detections: list[dict[str, Any]]) -> None:
        """Replace labels 0..K-1 by the category ids of the annotation file, in place."""
        id_map = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        if id_map is None:  # LVIS numbers its categories from 1, and so does `load_lvis_json`
            original = {category - 1: category for category in self._lvis_api.get_cat_ids()}
        else:
            original = {label: category for category, label in id_map.items()}
        for detection in detections:
            label = detection["category_id"]
            if label not in original:
                raise AssertionError(
                    f"a prediction has class {label}, which none of the dataset's {len(original)} "
                    "categories has: does the model's num_classes fit the dataset?"
                )
            detection["category_id"] = original[label]

    def _evaluate_task(self, task: str, detections: list[dict[str, Any]]) -> dict[str, float]:
        if not detections:
            self._logger.warning("No detections at all for %s.", task)
            return {name: float("nan") for name in _METRICS}
        # the area is taken from the box where there is one; a mask has its own
        own_area = ("bbox",) if task == "segm" else ()
        detections = [{k: v for k, v in d.items() if k not in own_area} for d in detections]
        results = LVISResults(self._lvis_api, detections, max_dets=self._max_dets)
        evaluation = LVISEval(self._lvis_api, results, task)
        evaluation.run()
        measured = evaluation.get_results()
        values = {
            name: float(measured[name] * 100) if measured[name] >= 0 else float("nan")
            for name in _METRICS
        }
        self._logger.info("Results for %s:\n%s", task, create_small_table(values))
        return values
