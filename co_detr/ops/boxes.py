"""Conversions between the two box frames of the model, and the inverse of the sigmoid.

The transformer works on *normalized cxcywh* boxes: centre and size divided by the image's own valid
width and height. `Boxes` and `Instances` hold *absolute xyxy* pixels of the model input. A box
crosses from one frame to the other only through the two functions here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of `x`, finite everywhere.

    `x` is clamped to [0, 1]; then `x` and `1 - x` are each clamped to `eps` from below, so that the
    result lies in [log(eps), -log(eps)] (`torch.logit` clamps `x` to [eps, 1 - eps] instead, which
    moves the ends by log(1 - eps)). Where a clamp acts, that factor passes no gradient.

    Args:
        x: probabilities or normalized coordinates, any shape. Values outside [0, 1] are clamped.
        eps: 1e-5 in Deformable DETR, 1e-3 in DINO.

    Returns:
        Logits of the same shape.
    """
    # One clamp each, the upper bound being that of [0, 1]. In floats: exporters to ONNX promote an
    # integer bound to a tensor, and then find no such clamp.
    return x.clamp(eps, 1.0).log() - (1 - x).clamp(eps, 1.0).log()


def to_absolute_xyxy(boxes_cxcywh: Tensor, scale: Tensor | float) -> Tensor:
    """Convert normalized cxcywh boxes to absolute xyxy pixels. Nothing is clipped.

    Args:
        boxes_cxcywh: (..., 4) centre x, centre y, width, height in fractions of the image.
        scale: (..., 4) image sizes as (w, h, w, h) in pixels, broadcast against the boxes, so
            (N, 1, 4) for boxes (N, Q, 4).

    Returns:
        (..., 4) left, top, right, bottom in pixels.
    """
    return box_convert(boxes_cxcywh, "cxcywh", "xyxy") * scale


def to_normalized_cxcywh(boxes_xyxy: Tensor, scale: Tensor) -> Tensor:
    """Convert absolute xyxy boxes to normalized cxcywh. Inverse of `to_absolute_xyxy`.

    Args:
        boxes_xyxy: (..., 4) left, top, right, bottom in pixels.
        scale: (..., 4) image sizes as (w, h, w, h) in pixels, broadcast against the boxes.

    Returns:
        (..., 4) centre x, centre y, width, height in fractions of the image.
    """
    return box_convert(boxes_xyxy / scale, "xyxy", "cxcywh")


def has_area(boxes: Tensor) -> Tensor:
    """(...) bool: whether xyxy boxes (..., 4) have positive sides."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def box_deltas(source: Tensor, target: Tensor, weights: Sequence[float]) -> Tensor:
    """Encode targets relative to sources, both (..., 4) absolute xyxy with positive sides.

    The values of `get_deltas` of detectron2's `Box2BoxTransform`, which checks the sides; for that
    the host has to know them.

    Args:
        weights: factors of (dx, dy, dw, dh), as for `Box2BoxTransform`.

    Returns:
        (..., 4) weighted (dx, dy, dw, dh) (Girshick et al., R-CNN, CVPR 2014, Appendix C).
    """
    (place, size), (target_place, target_size) = map(_centre_and_size, (source, target))
    shift, growth = (target_place - place) / size, (target_size / size).log()
    across, along = weights[:2], weights[2:]
    return torch.cat([_weighted(shift, across), _weighted(growth, along)], dim=-1)


def apply_deltas(
    source: Tensor, deltas: Tensor, weights: Sequence[float], scale_clamp: float
) -> Tensor:
    """Decode `box_deltas`: the boxes that deltas (..., 4) make of sources (..., 4).

    The values of `apply_deltas` of detectron2's `Box2BoxTransform`, by fewer operators, of which
    the gradient needs fewer, too: for few boxes the time is theirs.

    Args:
        source: absolute xyxy, broadcast against the deltas.
        weights, scale_clamp: as for `Box2BoxTransform`.

    Returns:
        (..., 4) absolute xyxy, not clipped.
    """
    place, size = _centre_and_size(source)
    shift, growth = deltas.split(2, dim=-1)
    inverse = [1 / weight for weight in weights]
    place = place + _weighted(shift, inverse[:2]) * size
    half = _weighted(growth, inverse[2:]).clamp(max=scale_clamp).exp() * size / 2
    return torch.cat([place - half, place + half], dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sides, both (..., 2) as (x, y), of xyxy boxes (..., 4)."""
    corner, opposite = boxes.split(2, dim=-1)
    return (corner + opposite) / 2, opposite - corner


def _weighted(pairs: Tensor, weights: Sequence[float]) -> Tensor:
    """(..., 2) times a weight each; a tensor of both would have to be copied to the device."""
    first, second = weights
    if first == second:
        return pairs * first
    return torch.stack([pairs[..., 0] * first, pairs[..., 1] * second], dim=-1)


def giou_loss(boxes: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., CVPR 2019) of xyxy boxes (..., 4) pair by pair.

    The values of torchvision's `generalized_box_iou_loss`. That one picks overlapping pairs by
    boolean indexing, so each call makes the host wait for the device five times; this does not.

    Args:
        boxes, target: in pixels, with sides of at least 0; union and hull count as at least 1e-6.

    Returns:
        (...) in [0, 2], 2 for boxes far apart, and 1 where no box has an area.
    """
    top_left, bottom_right = boxes.split(2, dim=-1)
    target_top_left, target_bottom_right = target.split(2, dim=-1)
    overlap = torch.minimum(bottom_right, target_bottom_right)
    overlap = area((overlap - torch.maximum(top_left, target_top_left)).clamp(min=0))
    hull = torch.maximum(bottom_right, target_bottom_right)
    hull = area(hull - torch.minimum(top_left, target_top_left))
    union = area(bottom_right - top_left) + area(target_bottom_right - target_top_left) - overlap
    return 1 - overlap / union.clamp(min=1e-6) + (hull - union) / hull.clamp(min=1e-6)


def area(sides: Tensor) -> Tensor:
    """(...) widths times heights (..., 2); the gradient of `prod` takes ten times the operators."""
    width, height = sides.unbind(dim=-1)
    return width * height


def broadcast_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of xyxy boxes (..., 4) that are paired by broadcasting; 0 where neither has an area.

    The union counts as at least 1e-6 square units: boxes in pixels are meant.
    """
    # side by side: a tensor of widths and heights would be twice the size of the result
    left, top, right, bottom = a.unbind(dim=-1)
    other_left, other_top, other_right, other_bottom = b.unbind(dim=-1)
    width = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp(min=0)
    height = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp(min=0)
    intersection = width * height
    area_a = (right - left) * (bottom - top)
    area_b = (other_right - other_left) * (other_bottom - other_top)
    return intersection / (area_a + area_b - intersection).clamp(min=1e-6)
