"""The loss of the decoder: all layers at once, and all groups while they are small.

Letters: N images, Q queries, L layers. Boxes are normalized cxcywh.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_detr.ops.boxes import area, giou_loss, to_absolute_xyxy

from .assignment import GroundTruth, HungarianMatcher, MatchingProblem
from .focal import PAIRS_AT_ONCE
from .losses import LossTerm
from .queries.group import FixedTargets, HungarianTargets, QueryGroup
from .transformer.decoder import Predictions
from .transformer.proposals import Proposals
from .whole_batch import all_classes


@dataclass(frozen=True, eq=False)
class _PredictionSet:
    """Predictions with what is needed to score them; a group, or the encoder's proposals."""

    name: str
    logits: Tensor  # (L, N, Q, num_classes)
    boxes: Tensor  # (L, N, Q, 4)
    policy: HungarianTargets | FixedTargets
    valid: Tensor | None = None  # (N, Q)
    weight: float = 1.0
    class_agnostic: bool = False


class SetCriterion(nn.Module):
    """Class, L1 and GIoU losses of every query group and of the proposals (Co-DETR, equation 5).

    Args:
        num_classes: the background label.
        matcher: solves the groups that want a matching.
        class_loss: loss of every query, summed over classes; see `losses.FocalLoss`.
        class_weight, l1_weight, giou_weight: weights of the three losses.
        federated: chooses the classes whose loss counts, see `fed_loss.FederatedClasses`; None for
            all. One choice per step holds for every layer of every group and for the proposals,
            unless these are class-agnostic. Auxiliary heads score all classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_loss: nn.Module,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        federated: nn.Module | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.class_loss = class_loss
        self.federated = federated
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight

    def forward(
        self,
        predictions: Mapping[str, Predictions],
        groups: Sequence[QueryGroup],
        proposals: Proposals | None,
        ground_truth: GroundTruth,
    ) -> dict[str, LossTerm]:
        """Score all predictions.

        Returns:
            unfinished losses "<group>/loss_{class,box,giou}_<layer>", and "encoder/loss_..." of the
            proposals.
        """
        decoded = [
            _PredictionSet(
                group.name,
                predictions[group.name].logits,
                predictions[group.name].boxes,
                group.targets,
                group.valid,
                group.weight,
            )
            for group in groups
        ]
        encoded = []
        if proposals is not None:
            encoder = _PredictionSet(
                "encoder",
                proposals.logits[None],
                proposals.boxes[None],
                HungarianTargets(),
                class_agnostic=proposals.class_agnostic,
            )
            encoded = [encoder]
        matched = self.matcher(
            {
                s.name: MatchingProblem(s.logits, s.boxes, s.class_agnostic, s.policy.repeats)
                for s in decoded + encoded
                if isinstance(s.policy, HungarianTargets)
            },
            ground_truth,
        )
        scored = None
        if self.federated is not None:
            scored = self.federated(all_classes(ground_truth.classes))
        # Side by side while copies are small; with many classes, one after the other.
        pairs = sum(s.logits.numel() for s in decoded)
        together = [decoded] if pairs <= PAIRS_AT_ONCE else [[s] for s in decoded]
        terms: dict[str, LossTerm] = {}
        for sets in [*together, encoded]:
            if sets:
                targets = [self._targets(s, matched.get(s.name), ground_truth) for s in sets]
                terms |= self._losses(sets, targets, ground_truth.scale, scored)
        return {
            key.removesuffix("_0") if key.startswith("encoder/") else key: term
            for key, term in terms.items()
        }

    def _targets(
        self, predicted: _PredictionSet, matched: Tensor | None, ground_truth: GroundTruth
    ) -> FixedTargets:
        """Targets in every layer: classes (L, N, Q), boxes (L, N, Q, 4), of the `matched` objects
        (L, N, Q) where there was a matching."""
        if matched is None:
            fixed = predicted.policy
            assert isinstance(fixed, FixedTargets)
            return FixedTargets(
                fixed.classes.expand(predicted.boxes.shape[:-1]),
                fixed.boxes.expand(predicted.boxes.shape),
            )
        # one more row, which index -1 reads: background without a box
        background = ground_truth.scale.new_full((1,), self.num_classes).long()
        objects = torch.cat([*ground_truth.classes, background])
        if predicted.class_agnostic:
            objects = torch.where(objects < self.num_classes, 0, objects)
        boxes = torch.cat([*ground_truth.boxes, ground_truth.scale.new_zeros(1, 4)])
        return FixedTargets(objects[matched], boxes[matched])

    def _losses(
        self,
        sets: Sequence[_PredictionSet],
        targets: Sequence[FixedTargets],
        scale: Tensor,
        scored: Tensor | None,
    ) -> dict[str, LossTerm]:
        """Score sets of the same layers and kind of classes side by side, then sum each one's."""
        logits = _side_by_side([s.logits for s in sets]).float()
        boxes = _side_by_side([s.boxes for s in sets]).float()
        classes = _side_by_side([t.classes for t in targets])
        target = _side_by_side([t.boxes for t in targets])
        positive = classes < self.num_classes

        quality = elementwise_iou(boxes.detach(), target).where(positive, 0.0)
        scored = None if sets[0].class_agnostic else scored
        class_loss = self.class_loss(logits, classes, quality, scored)
        if any(s.valid is not None for s in sets):
            everything = [torch.ones_like(t.classes[0], dtype=torch.bool) for t in targets]
            valid = [e if s.valid is None else s.valid for s, e in zip(sets, everything)]
            class_loss = class_loss * torch.cat(valid, dim=1)
        l1_loss = (boxes - target).abs().sum(-1) * positive
        pixels = scale[:, None]
        overlap_loss = giou_loss(to_absolute_xyxy(boxes, pixels), to_absolute_xyxy(target, pixels))
        overlap_loss = overlap_loss.where(positive, 0.0)

        kinds = "class", "box", "giou"
        losses = torch.stack(
            [
                self.class_weight * class_loss,
                self.l1_weight * l1_loss,
                self.giou_weight * overlap_loss,
            ]
        )
        sizes = [s.boxes.shape[2] for s in sets]
        terms = {}
        for s, own, own_positive in zip(sets, losses.split(sizes, 3), positive[0].split(sizes, 1)):
            count = own_positive.sum()
            totals = (own.sum((2, 3)) * s.weight).flatten().unbind()
            names = itertools.product(kinds, range(own.shape[1]))
            for (kind, layer), total in zip(names, totals):
                terms[f"{s.name}/loss_{kind}_{layer}"] = LossTerm(total, count)
        return terms


def _side_by_side(values: Sequence[Tensor]) -> Tensor:
    """Concatenate (L, N, Q, ...) over the queries; a single one is not copied."""
    return torch.cat(list(values), dim=2) if len(values) > 1 else values[0]


def elementwise_iou(boxes: Tensor, target: Tensor) -> Tensor:
    """IoU of normalized cxcywh boxes (..., 4) pair by pair; the union counts as at least 1e-6."""
    corners, other = to_absolute_xyxy(boxes, 1.0), to_absolute_xyxy(target, 1.0)
    top_left = torch.maximum(corners[..., :2], other[..., :2])
    bottom_right = torch.minimum(corners[..., 2:], other[..., 2:])
    intersection = area((bottom_right - top_left).clamp(min=0))
    union = area(boxes[..., 2:]) + area(target[..., 2:]) - intersection
    return intersection / union.clamp(min=1e-6)
