"""The PAA head (Kim and Lee, Probabilistic Anchor Assignment, ECCV 2020)."""

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from co_detr.ops.boxes import broadcast_iou, giou_loss

from ..losses import LossTerm
from ..sampling import rows_at
from .dense import Candidates, DenseHead, DensePredictions, DenseTargets, best_of_levels
from .max_iou import max_iou_match
from .mixture import fit_mixtures
from .truth import BACKGROUND, PaddedTruth


def best_candidates(
    losses: Tensor, matches: Tensor, level_sizes: list[int], num_objects: int, per_level: int
) -> tuple[Tensor, Tensor]:
    """Find the anchors with the lowest losses of each object on each level.

    Args:
        losses, matches: (N, A), matches as indices of objects of the image.
        level_sizes: number of anchors of each level.
        num_objects: G.
        per_level: most of an object on a level.

    Returns:
        losses by size, infinite where there are no more candidates, and the anchors' indices; both
        (N, G, at most `per_level` times the number of levels).
    """
    objects = torch.arange(num_objects, device=matches.device).repeat(len(matches), 1)
    lowest, index, start = [], [], 0
    parts = zip(losses.split(level_sizes, dim=1), matches.split(level_sizes, dim=1))
    for loss, match in parts:
        # By object, and of each by loss: without a tensor of all objects times all anchors.
        by_loss = loss.argsort(dim=1, stable=True)
        owner, by_owner = match.gather(1, by_loss).sort(dim=1, stable=True)
        order = by_loss.gather(1, by_owner)
        first, end = (torch.searchsorted(owner, objects, right=right) for right in (False, True))
        rank = torch.arange(min(per_level, loss.shape[1]), device=loss.device)
        place = first[..., None] + rank  # (N, G, k)
        indices = order.gather(1, place.clamp(max=loss.shape[1] - 1).flatten(1))
        values = loss.gather(1, indices).view_as(place)
        lowest.append(values.where(place < end[..., None], torch.inf))
        index.append(indices.view_as(place) + start)
        start += loss.shape[1]
    rising, order = torch.cat(lowest, dim=2).sort(dim=2, stable=True)
    return rising, torch.cat(index, dim=2).gather(2, order)


def separate(losses: np.ndarray) -> np.ndarray:
    """Tell positive from negative candidates by a mixture of two normal distributions (Sec. 3.2).

    Positive are members of the component of low losses, from the lowest loss to the one where the
    mixture is densest. An object with a single candidate has no positive.

    Args:
        losses: (..., K) float64, rising, infinite where there are no more.

    Returns:
        (..., K) bool.
    """
    positive = np.zeros(losses.shape, dtype=bool)
    enough = np.isfinite(losses).sum(axis=-1) >= 2
    x = losses[enough]
    real = np.isfinite(x)
    x = np.where(real, x, 0)
    mixtures = fit_mixtures(x, real)
    member = (mixtures.log_joint(x).argmax(axis=-1) == 0) & real
    densest = np.where(member, mixtures.log_density(x), -np.inf).argmax(axis=-1)
    positive[enough] = member & (np.arange(x.shape[-1]) <= densest[:, None])
    return positive


def vote(
    kept: Tensor, kept_classes: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor
) -> Tensor:
    """Move each box to the mean of all boxes of its class around it (Sec. 3.3).

    Args:
        kept, kept_classes: (n, 4) and (n,), detections.
        boxes, scores, classes: (m, 4), (m,), (m,), what they were chosen from.

    Returns:
        (n, 4) boxes; one without area stays where it is.
    """
    iou = broadcast_iou(kept[:, None], boxes)
    partner = (kept_classes[:, None] == classes) & (iou > 0.01)
    weight = scores * (-(1 - iou).square() / 0.025).exp() * partner
    total = weight.sum(dim=1, keepdim=True)
    with torch.autocast(boxes.device.type, enabled=False):  # half precision loses pixels
        sums = weight @ boxes
    return (sums / total.clamp(min=1e-12)).where(total > 0, kept)


class PAAHead(DenseHead):
    """Anchors of low loss are positive, by a mixture model; focal, GIoU and IoU losses.

    An anchor belongs to the object that `max_iou_match` gives it, if it is among the candidates of
    lowest loss of this object, and `separate` from the others. The class loss is divided by the
    number of positives, at least that of images; the box loss is weighted by the IoU of the
    predictions and divided by their sum; the loss of the predicted IoU by the number of positives.
    The score of a detection is the root of class score times IoU.

    The mixtures are fitted on the host, for which it waits once.

    Args:
        min_iou: of an anchor with its object.
        num_candidates: per object and level.
        iou_loss_weight: times `loss_weight`. All weights of losses change what is positive.
        score_voting: whether detections are moved by `vote`.
        dense: everything else is `DenseHead`'s.
    """

    def __init__(
        self,
        *,
        min_iou: float = 0.1,
        num_candidates: int = 9,
        iou_loss_weight: float = 0.5,
        score_voting: bool = True,
        box_loss_weight: float = 1.3,
        score_threshold: float = 0.05,
        **dense,
    ) -> None:
        super().__init__(
            predict_quality=True,
            scale_levels=True,
            box_loss_weight=box_loss_weight,
            quality_loss_weight=iou_loss_weight,
            score_threshold=score_threshold,
            **dense,
        )
        self.min_iou = min_iou
        self.num_candidates = num_candidates
        self.score_voting = score_voting

    def assign(
        self,
        anchors: list[Tensor],
        valid: Tensor,
        predictions: DensePredictions,
        truth: PaddedTruth,
    ) -> DenseTargets:
        sizes, everywhere = [len(level) for level in anchors], torch.cat(anchors)
        matches = self.first_matches(everywhere, valid, truth)
        losses = self.anchor_losses(
            everywhere, predictions, self.matched_targets(matches, valid, truth)
        )
        losses, index = best_candidates(
            losses, matches, sizes, truth.boxes.shape[1], self.num_candidates
        )
        positive = torch.from_numpy(separate(losses.double().cpu().numpy())).to(index.device)
        # An anchor is a candidate of one object only.
        positive = torch.zeros_like(matches).scatter_reduce(
            1, index.flatten(1), positive.flatten(1).long(), "amax"
        )
        matches = matches.masked_fill(positive == 0, BACKGROUND)
        return self.matched_targets(matches, valid, truth)

    def first_matches(self, anchors: Tensor, valid: Tensor, truth: PaddedTruth) -> Tensor:
        """Match by IoU, (N, A): those that may become candidates of an object."""
        return max_iou_match(
            anchors, valid, truth, positive_iou=self.min_iou, negative_iou=self.min_iou
        )

    def anchor_losses(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> Tensor:
        """(N, A) weighted class and box loss of positive anchors; the box loss of others is 0."""
        boxes, truth, positive = self.compare(anchors, predictions, targets)
        box_loss = giou_loss(boxes, truth) * positive
        class_loss = self.focal_loss(predictions.logits, targets.labels)
        return self.class_loss_weight * class_loss + self.box_loss_weight * box_loss

    def losses(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> dict[str, LossTerm]:
        boxes, truth, positive = self.compare(anchors, predictions, targets)
        assert predictions.quality is not None  # predict_quality
        num_positive = positive.sum()
        iou = broadcast_iou(boxes.detach(), truth) * positive
        box_loss = (giou_loss(boxes, truth) * iou.clamp(min=1e-12) * positive).sum()
        iou_loss = F.binary_cross_entropy_with_logits(
            predictions.quality, iou, weight=positive.float(), reduction="sum"
        )
        class_loss = self.focal_loss(predictions.logits, targets.labels).sum()
        num_images = len(positive)
        return {
            "loss_class": LossTerm(
                self.class_loss_weight * class_loss, num_positive.clamp(min=num_images)
            ),
            "loss_box": LossTerm(self.box_loss_weight * box_loss, iou.sum(), min_count=1e-6),
            "loss_iou": LossTerm(self.quality_loss_weight * iou_loss, num_positive),
        }

    def candidates(self, predictions: DensePredictions, level_sizes: list[int]) -> Candidates:
        """Choose all classes of the anchors of each level whose best score is highest."""
        assert predictions.quality is not None  # predict_quality
        quality = predictions.quality.sigmoid()[..., None]
        scores = (predictions.logits.sigmoid() * quality).sqrt()
        _, anchors = best_of_levels(
            scores.amax(dim=2, keepdim=True), level_sizes, self.candidates_per_level
        )
        scores = rows_at(scores, anchors).flatten(1)
        classes = torch.arange(self.num_classes, device=anchors.device).repeat(anchors.shape[1])
        return Candidates(
            anchors.repeat_interleave(self.num_classes, dim=1),
            classes.expand_as(scores),
            scores,
            scores > self.score_threshold,
        )

    def detect(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """See `DenseHead.detect`."""
        found = super().detect(boxes, scores, classes, image_size)
        if self.score_voting:
            kept = found.pred_boxes.tensor
            found.pred_boxes = Boxes(vote(kept, found.pred_classes, boxes, scores, classes))
        return found
