"""The GFL head (Li et al., Generalized Focal Loss, NeurIPS 2020)."""

import torch
from torch import Tensor

from co_detr.ops.boxes import broadcast_iou, giou_loss

from ..losses import LossTerm, QualityFocalLoss
from .atss import ATSSHead
from .dense import DenseHead, DensePredictions, DenseTargets
from .points import boxes_around, distances_to_sides


class GFLHead(DenseHead):
    """Anchors labelled by `atss_match`; the class score is the quality of the box, and the distance
    of each side from the anchor's centre is a distribution over whole strides.

    Quality focal loss (divided by the number of positives, counting at least one per image), GIoU
    and distribution focal loss (both weighted by the best class score, divided by the sum of it).

    Args:
        num_candidates: anchors per level that compete for a box.
        max_distance: of a side, in strides; there are so many bins and one for 0.
        beta: of the quality focal loss.
        distribution_loss_weight: of the mean over the sides, times `loss_weight`.
        dense: everything else is `DenseHead`'s, with one square anchor per cell.
    """

    def __init__(
        self,
        *,
        num_candidates: int = 9,
        max_distance: int = 16,
        beta: float = 2.0,
        distribution_loss_weight: float = 0.25,
        **dense,
    ) -> None:
        super().__init__(
            regression_dim=4 * (max_distance + 1),
            scale_levels=True,
            quality_loss_weight=distribution_loss_weight,
            **dense,
        )
        self.num_candidates = num_candidates
        self.max_distance = max_distance
        self.quality_focal_loss = QualityFocalLoss(beta=beta)

    assign = ATSSHead.assign

    def losses(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> dict[str, LossTerm]:
        boxes, truth, positive = self.compare(anchors, predictions, targets)
        num_positive = positive.sum(dim=1).clamp(min=1).sum()
        weight = predictions.logits.detach().amax(dim=-1).sigmoid() * positive

        quality = broadcast_iou(boxes.detach(), truth) * positive
        class_loss = self.quality_focal_loss(predictions.logits, targets.labels, quality)
        class_loss = (class_loss * (targets.labels >= 0)).sum()
        box_loss = (giou_loss(boxes, truth) * weight).sum()
        distances = distances_to_sides(anchors, truth) / self.strides_of(anchors)[:, None]
        sides = self.distribution_loss(predictions.regression, distances).mean(dim=-1)
        return {
            "loss_class": LossTerm(self.class_loss_weight * class_loss, num_positive),
            "loss_box": LossTerm(self.box_loss_weight * box_loss, weight.sum()),
            "loss_distribution": LossTerm(
                self.quality_loss_weight * (sides * weight).sum(), weight.sum()
            ),
        }

    def distribution_loss(self, regression: Tensor, distances: Tensor) -> Tensor:
        """Cross entropy with the two bins around a distance, by its closeness (GFL, Eq. 6).

        Args:
            regression: (..., 4 * bins) logits.
            distances: (..., 4) in strides; beyond the last bins they count as on the edge.

        Returns:
            (..., 4), per side.
        """
        scores = regression.unflatten(-1, (4, -1)).log_softmax(dim=-1)
        distances = distances.clamp(0, self.max_distance - 0.1)  # there is a bin on either side
        below = distances.floor().long()
        around = scores.gather(-1, torch.stack([below, below + 1], dim=-1))
        above = distances - below
        return -(around[..., 0] * (1 - above) + around[..., 1] * above)

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Take the expected distances; see `DenseHead.decode`."""
        bins = torch.arange(self.max_distance + 1, dtype=regression.dtype, device=anchors.device)
        # no matrix product, which autocast would do in half precision: pixels are lost in that
        distances = (regression.unflatten(-1, (4, -1)).softmax(dim=-1) * bins).sum(dim=-1)
        return boxes_around(anchors, distances * self.strides_of(anchors)[..., None])
