"""Merging detections of the same picture that come from several views or tiles of it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from detectron2.structures import Boxes, Instances

from co_detr.ops.soft_nms import SoftNMS, Suppression

# Objects of a class overlap each other less than this, mostly; detections of one object more.
VIEWS_OVERLAP = 0.6


class Fusion(Protocol):
    """What makes one list of detections of several."""

    def __call__(self, views: Sequence[Instances]) -> Instances:
        """Merge detections in the same frame.

        Args:
            views: each with `pred_boxes`, `scores`, `pred_classes`.

        Returns:
            The merged ones, best first.
        """
        ...


@dataclass(frozen=True)
class Suppressing:
    """All detections together, without the worse ones of each object; masks stay with theirs.

    Args:
        suppression: of a box where a better one of its class overlaps it.
    """

    suppression: Suppression = SoftNMS(iou_threshold=VIEWS_OVERLAP)

    def __call__(self, views: Sequence[Instances]) -> Instances:
        together = Instances.cat(list(views))
        kept, scores = self.suppression(
            together.pred_boxes.tensor, together.scores, together.pred_classes
        )
        merged = together[kept]
        merged.scores = scores
        return merged


@dataclass(frozen=True)
class WeightedBoxesFusion:
    """Boxes of one object averaged by score (Solovyev et al., 2021), by the package ensemble-boxes.

    It has the best score of its views. Of masks there is no average.

    Args:
        iou_threshold: boxes of a class that overlap more are of one object.
        min_score: of what takes part.

    Raises:
        ImportError: ensemble-boxes is not installed.
        ValueError: the detections have masks.
    """

    iou_threshold: float = VIEWS_OVERLAP
    min_score: float = 1e-3

    def __post_init__(self) -> None:
        # said before the first picture; to import it takes seconds
        if importlib.util.find_spec("ensemble_boxes") is None:
            raise ImportError(
                'weighted boxes fusion needs ensemble-boxes: pip install "co-detr[tta]"'
            )

    def __call__(self, views: Sequence[Instances]) -> Instances:
        from ensemble_boxes import weighted_boxes_fusion

        if any(view.has("pred_masks") for view in views):
            raise ValueError("masks cannot be averaged: merge them with fusion=Suppressing()")
        height, width = views[0].image_size
        device = views[0].pred_boxes.tensor.device
        size = torch.tensor([width, height, width, height])
        boxes, scores, classes = weighted_boxes_fusion(
            [(view.pred_boxes.tensor.cpu() / size).clamp(0, 1).numpy() for view in views],
            [view.scores.cpu().numpy() for view in views],
            [view.pred_classes.cpu().numpy() for view in views],
            iou_thr=self.iou_threshold,
            skip_box_thr=self.min_score,
            conf_type="max",
        )
        merged = Instances((height, width))
        merged.pred_boxes = Boxes((torch.as_tensor(boxes).float().view(-1, 4) * size).to(device))
        merged.scores = torch.as_tensor(scores).float().to(device)
        merged.pred_classes = torch.as_tensor(classes).long().to(device)
        return merged
