"""Removing or down-weighting duplicate detections: NMS and soft-NMS, both class by class.

Boxes are absolute xyxy; n is the number of detections of one image.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from .boxes import broadcast_iou


class Suppression(Protocol):
    """What turns raw detections of an image into detections without duplicates."""

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Suppress duplicates within each class.

        Args:
            boxes: (n, 4).
            scores: (n,).
            classes: (n,) int64.

        Returns:
            indices (k,) of what is kept and its scores (k,), best first.
        """
        ...


@dataclass(frozen=True)
class NMS:
    """Drop a box where its IoU with a better one of its class is above `iou_threshold`."""

    iou_threshold: float = 0.5

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        kept = batched_nms(boxes, scores, classes, self.iou_threshold)
        return kept, scores[kept]


@dataclass(frozen=True)
class SoftNMS:
    """Lower the score of a box for every better one of its class that overlaps it; see `soft_nms`.

    The defaults are those of mmcv, which the released configs rely on.
    """

    method: Literal["linear", "gaussian"] = "linear"
    iou_threshold: float = 0.3
    sigma: float = 0.5
    min_score: float = 1e-3

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        return soft_nms(
            boxes,
            scores,
            classes,
            method=self.method,
            iou_threshold=self.iou_threshold,
            sigma=self.sigma,
            min_score=self.min_score,
        )


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al., ICCV 2017) class by class, with the conventions of mmcv.

    One by one the best remaining box is taken, and the scores of the others of its class are
    multiplied by 1 - IoU where the IoU is at least `iou_threshold` ("linear"; a strict comparison
    in the paper), or by exp(-IoU^2 / sigma) ("gaussian"). Boxes whose score falls below `min_score`
    are dropped, but never the best box of all.

    The boxes are not taken one by one here: whatever beats all remaining boxes that it interacts
    with would be taken before any of these, no matter what happens elsewhere, so all such boxes of
    all classes are taken in one round. The number of rounds is the longest chain of interacting
    boxes with falling scores, a few for detections of a real image.

    Args:
        boxes: (n, 4).
        scores: (n,), not negative.
        classes: (n,) int64.
        method: "linear" or "gaussian".
        iou_threshold: for "linear".
        sigma: for "gaussian".
        min_score: see above.

    Returns:
        indices (k,) of what is kept and its lowered scores (k,), best first.
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f'method must be "linear" or "gaussian", got {method!r}')
    if method == "gaussian" and sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    if not len(boxes):
        return classes.new_empty(0, dtype=torch.int64), scores.clone()

    order = scores.sort(descending=True, stable=True).indices
    score = scores[order]
    first, second, factor = _interactions(
        boxes[order], classes[order], method=method, iou_threshold=iou_threshold, sigma=sigma
    )
    kept = score >= min_score
    kept[0] = True
    remaining = kept  # neither taken nor dropped
    while True:
        open_pairs = remaining[first] & remaining[second]
        first, second, factor = first[open_pairs], second[open_pairs], factor[open_pairs]
        if not len(first):
            break
        # Of every pair one has to wait; among equal scores the one that was worse at the start.
        waits = torch.where(score[second] > score[first], first, second)
        taken = remaining.index_fill(0, waits, False)
        for winner, loser in ((first, second), (second, first)):
            hit = taken[winner]
            score = score.scatter_reduce(0, loser[hit], factor[hit], "prod")
        kept = kept & (taken | ~remaining | (score >= min_score))
        remaining = remaining & kept & ~taken
    score, rank = score.masked_fill(~kept, -1.0).sort(descending=True, stable=True)
    count = int(kept.sum())
    return order[rank[:count]], score[:count]


def _interactions(
    boxes: Tensor, classes: Tensor, *, method: str, iou_threshold: float, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of boxes of a class that lower each other's score: first < second, and the factor."""
    first, second = (classes[:, None] == classes).triu(1).nonzero(as_tuple=True)
    iou = broadcast_iou(boxes[first], boxes[second])
    if method == "linear":
        factor, interact = 1 - iou, iou >= iou_threshold
    else:
        factor, interact = (-iou.square() / sigma).exp(), iou > 0
    return first[interact], second[interact], factor[interact]
