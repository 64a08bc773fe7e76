"""The RetinaNet head (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from co_detr.ops.boxes import giou_loss

from ..losses import LossTerm
from .dense import DenseHead, DensePredictions, DenseTargets
from .max_iou import max_iou_match
from .truth import PaddedTruth


class RetinaNetHead(DenseHead):
    """Nine anchors per cell, labelled by `max_iou_match`; focal and GIoU losses.

    Both losses are divided by the number of positives, counting at least one per image.

    Args:
        positive_iou, negative_iou: see `max_iou_match`; anchors between them count for nothing.
        dense: everything else is `DenseHead`'s.
    """

    def __init__(
        self,
        *,
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        anchor_scale: float = 4.0,
        scales_per_octave: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        norm: str = "",
        delta_std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
        box_loss_weight: float = 1.0,
        nms_threshold: float = 0.5,
        **dense,
    ) -> None:
        super().__init__(
            anchor_scale=anchor_scale,
            scales_per_octave=scales_per_octave,
            aspect_ratios=aspect_ratios,
            norm=norm,
            delta_std=delta_std,
            box_loss_weight=box_loss_weight,
            nms_threshold=nms_threshold,
            **dense,
        )
        self.positive_iou, self.negative_iou = positive_iou, negative_iou

    def assign(
        self,
        anchors: list[Tensor],
        valid: Tensor,
        predictions: DensePredictions,
        truth: PaddedTruth,
    ) -> DenseTargets:
        matches = max_iou_match(
            torch.cat(anchors),
            valid,
            truth,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
        )
        return self.matched_targets(matches, valid, truth)

    def losses(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> dict[str, LossTerm]:
        boxes, truth, positive = self.compare(anchors, predictions, targets)
        num_positive = positive.sum(dim=1).clamp(min=1).sum()
        box_loss = (giou_loss(boxes, truth) * positive).sum()
        class_loss = self.focal_loss(predictions.logits, targets.labels).sum()
        return {
            "loss_class": LossTerm(self.class_loss_weight * class_loss, num_positive),
            "loss_box": LossTerm(self.box_loss_weight * box_loss, num_positive),
        }
