"""Non-maximum suppression within classes."""

import torch
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Drop boxes that overlap a box of the same class with a higher score.

    Args:
        boxes: (N, 4) XYXY of any precision.
        scores: (N,).
        idxs: (N,) integer classes; boxes of different classes do not touch each other.
        iou_threshold: boxes that overlap by more are dropped.

    Returns:
        Tensor: (M,) int64, the kept indices by descending score.
    """
    assert boxes.shape[-1] == 4, f"boxes have four numbers, got shape {tuple(boxes.shape)}"
    # the offsets between classes that torchvision adds need the precision of float32
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
