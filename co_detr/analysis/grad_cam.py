"""Where in the encoder's output a head finds its objects: Grad-CAM (Selvaraju et al., ICCV 2017).

Letters: C channels, H_l x W_l cells of a level within the image, without padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def evidence(scores: Tensor) -> Tensor:
    """What of a head is differentiated: -log of the probability that it detects nothing.

    The paper leaves it open. Here it is the same for all heads, y = -sum log(1 - s) over the scores
    s of the detections of an image as the head reports them, as if they were independent. For a
    score that is the sigmoid (or softmax) of a logit, dy/dlogit = s: a detection counts as much as
    the head is sure of it. In the plain sum of scores, where that is s * (1 - s), many detections
    of next to nothing would outweigh the few that are certain.

    Args:
        scores: (n,) in [0, 1].

    Returns:
        a scalar; 0 of no detections.
    """
    tiny = torch.finfo(scores.dtype).eps  # of a score of exactly 1
    return -(1 - scores).clamp(min=tiny).log().sum()


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU of the channels' sum, weighted by their mean gradients (Grad-CAM, equations 1 and 2).

    Args:
        features: (C, H, W).
        gradient: (C, H, W) of the head's evidence.

    Returns:
        (H, W), not negative.
    """
    weights = gradient.mean(dim=(1, 2), keepdim=True)
    return (weights * features).sum(0).relu()


def combine_levels(maps: Sequence[Tensor]) -> Tensor:
    """Mean of the levels' maps at the finest resolution, each divided by its maximum first.

    So are the levels of the discriminability score combined in the paper (section 3.4), too. The
    mean gradients of levels of different sizes are not comparable as they are.

    Args:
        maps: (H_l, W_l), not negative, fine to coarse.

    Returns:
        (H_1, W_1), at most 1; a level of zeros adds zero.
    """
    size = maps[0].shape
    scaled = [level / level.max().clamp(min=torch.finfo(level.dtype).tiny) for level in maps]
    resized = [
        F.interpolate(level[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        for level in scaled
    ]
    return torch.stack(resized).mean(0)


def image_map(
    features: Sequence[Tensor], gradients: Sequence[Tensor], valid_cells: Tensor
) -> Tensor:
    """Grad-CAM of one image over all levels, without what is padding.

    Args:
        features, gradients: (C, H'_l, W'_l) of the batch's padded levels, fine to coarse.
        valid_cells: (levels, 2) columns and rows within the image, as in `EncoderMemory`.

    Returns:
        (H_1, W_1), see `combine_levels`.
    """
    maps = []
    for feature, gradient, cells in zip(features, gradients, valid_cells.long().tolist()):
        columns, rows = cells
        maps.append(grad_cam(feature[:, :rows, :columns], gradient[:, :rows, :columns]))
    return combine_levels(maps)


def to_distribution(heat: Tensor, epsilon: float) -> Tensor:
    """Normalize maps (..., H, W) to distributions over the cells, (..., H * W).

    A share `epsilon` is spread evenly over all cells, so that no cell has probability 0. A map of
    zeros, of a head that finds no positive evidence anywhere, becomes the uniform distribution.

    Raises:
        ValueError: `epsilon` is not between 0 and 1.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must lie between 0 and 1, got {epsilon}")
    heat = heat.flatten(-2).double()
    total = heat.sum(-1, keepdim=True)
    uniform = torch.full_like(heat, 1 / heat.shape[-1])
    shares = torch.where(total > 0, heat / total.where(total > 0, 1.0), uniform)
    return (1 - epsilon) * shares + epsilon * uniform
