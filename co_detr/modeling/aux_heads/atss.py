"""The ATSS head and its assignment rule (Zhang et al., Bridging the Gap, CVPR 2020)."""

import torch
from torch import Tensor

from co_detr.ops.boxes import broadcast_iou

from .centerness import CenternessHead
from .dense import DensePredictions, DenseTargets
from .points import centres, distances_to_sides
from .truth import PaddedTruth

DISTANCES_AT_ONCE = 2**23
"""Of the objects of a batch to the anchors of a level; those of all of them may fill gigabytes."""


def closest_anchors(
    boxes: Tensor, anchors: list[Tensor], valid: Tensor, image: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """Find the anchors of each level whose centres are closest to those of boxes.

    Args:
        boxes: (T, 4), absolute XYXY.
        anchors, valid, num_candidates: as for `atss_match`.
        image: (T,) the image of each box.

    Returns:
        indices of anchors, and whether these are valid ones; both (T, candidates of all levels).
    """
    sizes = [len(level) for level in anchors]
    middles, points = centres(boxes), centres(torch.cat(anchors)).split(sizes)
    padding = (~valid).split(sizes, dim=1)
    distances, candidates, start = [], [], 0
    for level, outside, size in zip(points, padding, sizes):
        # Differences, not the faster matrix product, whose rounding would reorder close candidates.
        distance = torch.cdist(middles, level, compute_mode="donot_use_mm_for_euclid_dist")
        distance.masked_fill_(outside[image], torch.inf)
        closest, index = distance.topk(min(num_candidates, size), dim=1, largest=False)
        distances.append(closest)
        candidates.append(index + start)
        start += size
    return torch.cat(candidates, dim=1), torch.cat(distances, dim=1).isfinite()


def atss_match(
    anchors: list[Tensor], valid: Tensor, gt_boxes: list[Tensor], num_candidates: int = 9
) -> Tensor:
    """Adaptive training sample selection (Algorithm 1), for a batch at once.

    The candidates of a box are the anchors with the closest centres, so many on each level. Those
    are positive whose IoU reaches mean + standard deviation (unbiased) over the candidates of the
    box and whose centre is inside it, by more than 0.01 pixels. An anchor that is positive for
    several boxes goes to the one it overlaps most, of equal ones to the first.

    Args:
        anchors: per level (A_l, 4), absolute XYXY.
        valid: (N, A), anchors of all levels that may become candidates.
        gt_boxes: per image (G_i, 4), absolute XYXY.
        num_candidates: per level, or all valid anchors where there are fewer.

    Returns:
        (N, A) int64: index into the boxes of the image; -1 where the anchor is background.
    """
    truth = torch.cat(gt_boxes)  # (T, 4)
    objects = [(i, number) for i, boxes in enumerate(gt_boxes) for number in range(len(boxes))]
    image, number = (
        torch.tensor(objects, dtype=torch.int64, device=truth.device).view(-1, 2).unbind(1)
    )

    at_once = max(1, DISTANCES_AT_ONCE // max(map(len, anchors)))
    parts = [
        closest_anchors(boxes, anchors, valid, images, num_candidates)
        for boxes, images in zip(truth.split(at_once), image.split(at_once))
    ]
    candidates, usable = (torch.cat(part) for part in zip(*parts))

    boxes = torch.cat(anchors)[candidates]
    iou = broadcast_iou(truth[:, None], boxes)
    count = usable.sum(dim=1, keepdim=True)
    mean = (iou * usable).sum(dim=1, keepdim=True) / count.clamp(min=1)
    variance = ((iou - mean).square() * usable).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    margins = distances_to_sides(boxes, truth[:, None])
    positive = usable & (iou >= mean + variance.sqrt()) & (margins.amin(dim=-1) > 0.01)

    # Conflicts: the highest IoU at each anchor, then the first box that has it.
    slots = image[:, None] * valid.shape[1] + candidates
    iou = iou.masked_fill(~positive, -1)
    highest = iou.new_full((valid.numel(),), -1).scatter_reduce(
        0, slots.flatten(), iou.flatten(), "amax"
    )
    wins = positive & (iou == highest[slots])
    nobody = len(truth)
    index = number[:, None].expand_as(slots).masked_fill(~wins, nobody)
    matches = index.new_full((valid.numel(),), nobody).scatter_reduce(
        0, slots.flatten(), index.flatten(), "amin"
    )
    return matches.masked_fill(matches == nobody, -1).view_as(valid)


class ATSSHead(CenternessHead):
    """Anchors labelled by `atss_match`; focal, GIoU and centerness losses.

    Class and centerness losses are divided by the number of positives, counting at least one per
    image; the box loss is weighted by the centerness targets and divided by their sum. The score of
    a detection is class score times centerness.

    Args:
        num_candidates: anchors per level that compete for a box.
        dense: everything else is `CenternessHead`'s. With one square anchor per cell, of side 8
            strides unless `anchor_scale` says otherwise.
    """

    def __init__(self, *, num_candidates: int = 9, **dense) -> None:
        super().__init__(**dense)
        self.num_candidates = num_candidates

    def assign(
        self,
        anchors: list[Tensor],
        valid: Tensor,
        predictions: DensePredictions,
        truth: PaddedTruth,
    ) -> DenseTargets:
        matches = atss_match(anchors, valid, truth.boxes_by_image(), self.num_candidates)
        return self.matched_targets(matches, valid, truth)
