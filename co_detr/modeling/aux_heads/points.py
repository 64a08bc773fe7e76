"""Boxes as distances (left, top, right, bottom) of their sides from the centres of anchors."""

import torch
from torch import Tensor


def centres(anchors: Tensor) -> Tensor:
    """(..., 2) centres (x, y) of XYXY boxes (..., 4)."""
    return (anchors[..., :2] + anchors[..., 2:]) / 2


def distances_to_sides(anchors: Tensor, boxes: Tensor) -> Tensor:
    """(..., 4) distances of the centres of anchors from the sides of boxes, both (..., 4) absolute
    XYXY, broadcast; negative beyond a side."""
    points = centres(anchors)
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_around(anchors: Tensor, distances: Tensor) -> Tensor:
    """The boxes (..., 4) whose sides have these distances; inverse of `distances_to_sides`."""
    points = centres(anchors)
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
