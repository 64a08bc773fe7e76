"""Dense heads that learn how central their anchors are in their boxes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from co_detr.ops.boxes import giou_loss

from ..losses import LossTerm
from .dense import DenseHead, DensePredictions, DenseTargets
from .points import distances_to_sides


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How central anchors (..., 4) are in boxes (..., 4) that hold their centres: 1 in the middle,
    0 at the border (Tian et al., FCOS, Eq. 3). Both absolute XYXY."""
    before, after = distances_to_sides(anchors, boxes).split(2, dim=-1)
    ratios = torch.minimum(before, after) / torch.maximum(before, after)
    return ratios.prod(dim=-1).sqrt()


class CenternessHead(DenseHead):
    """Focal, GIoU and centerness losses; the score of a detection is class score times centerness.

    Class and centerness losses are divided by the number of positives; the box loss is weighted by
    the centerness targets and divided by their sum. Subclasses fill in `assign`.

    Args:
        centerness_loss_weight: times `loss_weight`.
        dense: everything else is `DenseHead`'s.
    """

    min_centerness = 1.0
    """What the sum of the centerness targets counts as at least."""

    def __init__(self, *, centerness_loss_weight: float = 1.0, **dense) -> None:
        super().__init__(
            predict_quality=True,
            scale_levels=True,
            quality_loss_weight=centerness_loss_weight,
            **dense,
        )

    def count(self, positive: Tensor) -> Tensor:
        """Count positives (N, A), at least one per image."""
        return positive.sum(dim=1).clamp(min=1).sum()

    def losses(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> dict[str, LossTerm]:
        boxes, truth, positive = self.compare(anchors, predictions, targets)
        assert predictions.quality is not None  # predict_quality
        num_positive = self.count(positive)
        quality = centerness(anchors, truth) * positive
        box_loss = (giou_loss(boxes, truth) * quality).sum()
        centerness_loss = F.binary_cross_entropy_with_logits(
            predictions.quality, quality, weight=positive.float(), reduction="sum"
        )
        class_loss = self.focal_loss(predictions.logits, targets.labels).sum()
        return {
            "loss_class": LossTerm(self.class_loss_weight * class_loss, num_positive),
            "loss_box": LossTerm(
                self.box_loss_weight * box_loss, quality.sum(), self.min_centerness
            ),
            "loss_centerness": LossTerm(self.quality_loss_weight * centerness_loss, num_positive),
        }
