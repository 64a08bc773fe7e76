"""Matching by fixed thresholds on the IoU (Ren et al., Faster R-CNN, Sec. 3.1.2)."""

import torch
from torch import Tensor

from co_detr.ops.boxes import broadcast_iou

from .truth import BACKGROUND, IGNORED, PaddedTruth

OVERLAPS_AT_ONCE = 2**24
"""Those of all objects of a batch with the anchors of nine per cell would fill gigabytes."""


@torch.no_grad()
def max_iou_match(
    anchors: Tensor,
    valid: Tensor,
    truth: PaddedTruth,
    *,
    positive_iou: float,
    negative_iou: float,
    min_positive_iou: float = 0.0,
) -> Tensor:
    """Match anchors to the object that they overlap most, and every object to its best anchors.

    Every anchor that ties for the best of a box, if that is good enough, becomes positive *for that
    box*, whatever other box it overlaps more (detectron2's low-quality matches keep the box the
    anchor overlaps most, and need no minimum); the last box wins.

    Args:
        anchors: (A, 4) absolute XYXY.
        valid: (N, A), anchors that take part.
        truth: the objects of N images.
        positive_iou, negative_iou: an anchor whose best IoU reaches the first is positive, below
            the second background, between them ignored.
        min_positive_iou: the best anchors of a box are positive from this IoU on, if they overlap
            it at all.

    Returns:
        (N, A) int64: index of an object of the image, BACKGROUND, or IGNORED, as are all anchors
        that are not valid.
    """
    highest = torch.zeros(valid.shape, device=anchors.device)
    matches = torch.zeros(valid.shape, dtype=torch.int64, device=anchors.device)
    last = torch.zeros_like(matches)  # number, from 1 on, of the last box whose best the anchor is
    at_once = max(1, OVERLAPS_AT_ONCE // max(1, valid.numel()))
    for start in range(0, truth.boxes.shape[1], at_once):
        boxes = truth.boxes[:, start : start + at_once]
        # Anchors in the padding must not become the best of a box either.
        iou = broadcast_iou(boxes[:, :, None], anchors).masked_fill_(~valid[:, None], 0)
        quality, index = iou.max(dim=1)
        matches = torch.where(quality > highest, index + start, matches)
        highest = highest.maximum(quality)

        best = iou.amax(dim=2, keepdim=True)
        ties = iou == best.where((best >= min_positive_iou) & (best > 0), torch.inf)
        number = torch.arange(start + 1, start + 1 + boxes.shape[1], device=anchors.device)
        last = last.maximum((ties * number[:, None]).amax(dim=1))

    matches = matches.masked_fill(highest < positive_iou, IGNORED)
    matches = matches.masked_fill(highest < negative_iou, BACKGROUND)
    return torch.where(last > 0, last - 1, matches).masked_fill(~valid, IGNORED)
