"""NMS of many groups of boxes, such as the levels of every image of a batch, at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from .eager_cpu import runs_on_cpu


@torch.no_grad()
def grouped_nms(
    boxes: Tensor, scores: Tensor, group_sizes: Sequence[int], iou_threshold: float
) -> Tensor:
    """Mark the boxes that NMS keeps; each group of each image is a world of its own.

    The host waits for the device once, whatever the number of images and groups. The price is
    memory for a bit per pair of boxes of the batch while NMS runs.

    Args:
        boxes: (N, M, 4) absolute XYXY, not negative.
        scores: (N, M).
        group_sizes: the M boxes of an image are so many of a first group, then of a second, ...
        iou_threshold: a box goes where its IoU with a better one of its group is above.

    Returns:
        (N, M) bool, True where kept.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    if runs_on_cpu(boxes):
        # Nobody waits here, and the time grows with the square of the number of boxes.
        per_group = (x.split(group_sizes, dim=1) for x in (boxes, scores, keep))
        for group_boxes, group_scores, group_keep in zip(*per_group):
            for b, s, k in zip(group_boxes, group_scores, group_keep):
                k[nms(b, s, iou_threshold)] = True
        return keep
    kept = nms(_apart(boxes, group_sizes).flatten(0, 1), scores.flatten(), iou_threshold)
    return keep.flatten().index_fill(0, kept, True).view_as(keep)


def _apart(boxes: Tensor, group_sizes: Sequence[int]) -> Tensor:
    """Move the groups (N, M, 4) apart, so that boxes of different groups do not meet.

    On a square grid and not in a row, which would need larger coordinates, rounded more coarsely.
    """
    num_images, num_groups = len(boxes), len(group_sizes)
    columns = math.ceil(math.sqrt(num_images * num_groups))
    groups = [
        torch.full((size,), group, device=boxes.device) for group, size in enumerate(group_sizes)
    ]
    cell = torch.arange(num_images, device=boxes.device)[:, None] * num_groups + torch.cat(groups)
    place = torch.stack([cell % columns, cell // columns], dim=-1).repeat(1, 1, 2)
    return boxes + place * (boxes.amax() + 1)
