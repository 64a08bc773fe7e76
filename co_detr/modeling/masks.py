"""What all mask heads share: ground truth cut to boxes, and the logits of one class per box.

Letters: R boxes of all images, C channels.
"""

from collections.abc import Sequence
from itertools import islice

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor, nn


def cut_masks(
    gt_instances: Sequence[Instances], index: Sequence[Tensor], boxes: Sequence[Boxes], size: int
) -> Tensor:
    """Cut ground-truth masks to boxes.

    Args:
        gt_instances: per image, with `gt_masks` where it has objects.
        index: per image (n,) int64, which object's mask each box is to hold.
        boxes: per image n boxes, absolute XYXY.
        size: side of the result in pixels.

    Returns:
        (R, size, size) float32, 1 where at least half of a pixel is covered by the object.

    Raises:
        ValueError: an image has objects but no masks.
    """
    corners: Sequence[Tensor] = [b.tensor for b in boxes]
    rows: Sequence[Tensor | list[int]] = index
    cut = [corners[0].new_zeros((0, size, size), dtype=torch.float32)]
    if any(isinstance(_masks(gt), PolygonMasks) for gt in gt_instances if len(gt)):
        # Polygons are drawn on the host: what it has to know goes there for all images at once.
        counts = [len(i) for i in index]
        numbers = iter(torch.cat(list(index)).tolist())
        rows = [list(islice(numbers, count)) for count in counts]
        corners = torch.cat(list(corners)).cpu().split(counts)
    for gt, i, c in zip(gt_instances, rows, corners):
        if len(i):
            cut.append(_masks(gt)[i].crop_and_resize(c, size).to(cut[0]))
    return torch.cat(cut)


def mask_areas(gt_instances: Sequence[Instances], index: Sequence[Tensor]) -> Tensor:
    """Area of ground-truth masks in square pixels, (R,) float32; arguments as for `cut_masks`."""
    areas = []
    for gt, i in zip(gt_instances, index):
        area = torch.zeros(len(gt), device=i.device)
        if len(gt):
            masks = _masks(gt)
            if isinstance(masks, BitMasks):
                area = masks.tensor.flatten(1).sum(1).to(area)
            else:
                area = masks.area().to(area)
        areas.append(area[i])
    return torch.cat(areas)


def _masks(gt: Instances):
    if not gt.has("gt_masks"):
        raise ValueError(
            f"an image with {len(gt)} objects has no `gt_masks`, which a mask head learns from: "
            "set dataloader.train.mapper.use_instance_mask=True and use a dataset with "
            '"segmentation" in its annotations, or leave the mask head out of the model'
        )
    return gt.gt_masks


def class_logits(layer: nn.Conv2d, hidden: Tensor, classes: Tensor) -> Tensor:
    """Apply a 1x1 convolution, of which each box needs only the output of its class.

    To compute all outputs and pick one gives the same and, with the 1203 classes of LVIS, takes
    gigabytes.

    Args:
        layer: one output channel per class, or a single one for all classes.
        hidden: (R, C, h, w).
        classes: (R,) int64.

    Returns:
        (R, h, w) float32.
    """
    if layer.out_channels == 1:
        return layer(hidden)[:, 0].float()
    assert layer.bias is not None
    logits = torch.einsum("rchw,rc->rhw", hidden, layer.weight[classes].flatten(1).to(hidden))
    return logits.float() + layer.bias[classes].float()[:, None, None]
