"""The loss of the decoder: one loop over groups, all their layers at once.

Letters: N images, Q queries, L layers. Boxes are normalized cxcywh.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_detr.ops.boxes import giou_loss, to_absolute_xyxy

from .assignment import GroundTruth, HungarianMatcher, MatchingProblem
from .losses import LossTerm
from .queries.group import FixedTargets, HungarianTargets, QueryGroup
from .transformer.decoder import Predictions
from .transformer.proposals import Proposals
from .whole_batch import all_classes


@dataclass(frozen=True, eq=False)
class _PredictionSet:
    """Predictions with what is needed to score them; a group, or the encoder's proposals."""

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
        sets = {
            group.name: _PredictionSet(
                predictions[group.name].logits,
                predictions[group.name].boxes,
                group.targets,
                group.valid,
                group.weight,
            )
            for group in groups
        }
        if proposals is not None:
            sets["encoder"] = _PredictionSet(
                proposals.logits[None],
                proposals.boxes[None],
                HungarianTargets(),
                class_agnostic=proposals.class_agnostic,
            )
        matched = self.matcher(
            {
                name: MatchingProblem(s.logits, s.boxes, s.class_agnostic, s.policy.repeats)
                for name, s in sets.items()
                if isinstance(s.policy, HungarianTargets)
            },
            ground_truth,
        )
        scored = None
        if self.federated is not None:
            scored = self.federated(all_classes(ground_truth.classes))
        terms: dict[str, LossTerm] = {}
        for name, predicted in sets.items():
            if name in matched:
                targets = self._matched_targets(predicted, matched[name], ground_truth)
            else:
                targets = predicted.policy
            terms |= self._losses(name, predicted, targets, ground_truth.scale, scored)
        return terms

    def _matched_targets(
        self, predicted: _PredictionSet, matched: Tensor, ground_truth: GroundTruth
    ) -> FixedTargets:
        """Look up the matched objects: classes (L, N, Q), boxes (L, N, Q, 4)."""
        # one more row, which index -1 reads: background without a box
        background = ground_truth.scale.new_full((1,), self.num_classes).long()
        objects = torch.cat([*ground_truth.classes, background])
        if predicted.class_agnostic:
            objects = torch.where(objects < self.num_classes, 0, objects)
        boxes = torch.cat([*ground_truth.boxes, ground_truth.scale.new_zeros(1, 4)])
        return FixedTargets(objects[matched], boxes[matched])

    def _losses(
        self,
        name: str,
        predicted: _PredictionSet,
        targets: FixedTargets,
        scale: Tensor,
        scored: Tensor | None,
    ) -> dict[str, LossTerm]:
        logits, boxes = predicted.logits.float(), predicted.boxes.float()
        classes = targets.classes.expand(boxes.shape[:-1])
        target = targets.boxes.expand(boxes.shape)
        positive = classes < self.num_classes

        quality = elementwise_iou(boxes.detach(), target).where(positive, 0.0)
        scored = None if predicted.class_agnostic else scored
        class_loss = self.class_loss(logits, classes, quality, scored)
        if predicted.valid is not None:
            class_loss = class_loss * predicted.valid
        l1_loss = (boxes - target).abs().sum(-1) * positive
        pixels = scale[:, None]
        overlap_loss = giou_loss(to_absolute_xyxy(boxes, pixels), to_absolute_xyxy(target, pixels))
        overlap_loss = overlap_loss.where(positive, 0.0)

        count = positive[0].sum()
        terms = {}
        for kind, loss, weight in (
            ("class", class_loss, self.class_weight),
            ("box", l1_loss, self.l1_weight),
            ("giou", overlap_loss, self.giou_weight),
        ):
            totals = loss.sum((1, 2)) * (weight * predicted.weight)
            for layer, total in enumerate(totals.unbind()):
                terms[f"{name}/loss_{kind}_{layer}"] = LossTerm(total, count)
        if name == "encoder":
            terms = {key.removesuffix("_0"): term for key, term in terms.items()}
        return terms


def elementwise_iou(boxes: Tensor, target: Tensor) -> Tensor:
    """IoU of normalized cxcywh boxes (..., 4) pair by pair; the union counts as at least 1e-6."""
    corners, other = to_absolute_xyxy(boxes, 1.0), to_absolute_xyxy(target, 1.0)
    top_left = torch.maximum(corners[..., :2], other[..., :2])
    bottom_right = torch.minimum(corners[..., 2:], other[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = boxes[..., 2:].prod(-1) + target[..., 2:].prod(-1) - intersection
    return intersection / union.clamp(min=1e-6)
