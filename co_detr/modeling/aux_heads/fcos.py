"""The FCOS head and its assignment rule (Tian et al., FCOS, ICCV 2019)."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .centerness import CenternessHead
from .dense import DensePredictions, DenseTargets
from .max_iou import OVERLAPS_AT_ONCE
from .points import boxes_around, centres, distances_to_sides
from .truth import BACKGROUND, PaddedTruth

LARGEST_LOG = math.log(1e5)
"""Of a distance in pixels, where its logarithm is predicted."""


def fcos_match(
    anchors: Tensor, truth: PaddedTruth, *, sizes: Tensor, reach: Tensor | None = None
) -> Tensor:
    """Match each point to the smallest box that it is inside of, and whose size fits its level.

    Args:
        anchors: (A, 4) absolute XYXY, with the points in their centres.
        truth: the objects of N images.
        sizes: (A, 2) smallest and largest distance, in pixels, that the farthest side of a box may
            have from the point; both count as fitting.
        reach: (A,) the point has to be closer than this to the centre of the box, in x and in y;
            None for anywhere within the box.

    Returns:
        (N, A) int64: index of an object of the image, of equal ones the first, or BACKGROUND.
    """
    smallest = anchors.new_full((len(truth.boxes), len(anchors)), torch.inf)
    matches = torch.full_like(smallest, BACKGROUND, dtype=torch.int64)
    at_once = max(1, OVERLAPS_AT_ONCE // max(1, matches.numel()))
    for start in range(0, truth.boxes.shape[1], at_once):
        boxes = truth.boxes[:, start : start + at_once, None]  # (N, g, 1, 4)
        distances = distances_to_sides(anchors, boxes)
        farthest = distances.amax(dim=-1)
        fits = (distances.amin(dim=-1) > 0) & (farthest >= sizes[:, 0]) & (farthest <= sizes[:, 1])
        if reach is not None:
            fits &= (centres(anchors) - centres(boxes)).abs().amax(dim=-1) < reach
        area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).where(fits, torch.inf)
        least = area.amin(dim=1)
        number = torch.arange(start, start + area.shape[1], device=area.device)[:, None]
        first = number.where(area == least[:, None], start + at_once).amin(dim=1)
        matches = torch.where(least < smallest, first, matches)
        smallest = smallest.minimum(least)
    return matches


class FCOSHead(CenternessHead):
    """One point in the middle of each cell, labelled by `fcos_match`; focal, GIoU and centerness
    losses. The score of a detection is class score times centerness.

    Positives are those of the whole batch. Points in the padding are background. As queries,
    samples are boxes of side `anchor_scale` strides around the points.

    The defaults are FCOS with all improvements of its authors; as it was first published it has
    `center_radius=None, box_activation="exp", quality_tower="class", conv_bias=False`.

    Args:
        center_radius: points of a box are closer to its centre than so many strides; None for
            anywhere within it.
        box_activation: distances are exp(x) pixels ("exp") or max(x, 0) strides ("relu").
        max_sizes: for all levels but the last, the largest distance in pixels of a point from a
            side of its box, where the next level begins; None for 8 strides.
        dense: everything else is `CenternessHead`'s, with one square anchor per cell.
    """

    min_centerness = 1e-6

    def __init__(
        self,
        *,
        center_radius: float | None = 1.5,
        box_activation: Literal["relu", "exp"] = "relu",
        max_sizes: Sequence[float] | None = None,
        conv_bias: bool | None = True,
        box_loss_weight: float = 1.0,
        **dense,
    ) -> None:
        super().__init__(
            anchor_offset=0.5,
            padding_valid=True,
            conv_bias=conv_bias,
            box_loss_weight=box_loss_weight,
            **dense,
        )
        if box_activation not in ("relu", "exp"):
            raise ValueError(f'box_activation must be "relu" or "exp", got {box_activation!r}')
        strides = self.anchors.strides
        bounds = [8 * s for s in strides[:-1]] if max_sizes is None else list(max_sizes)
        if len(bounds) != len(strides) - 1:
            raise ValueError(
                f"max_sizes={bounds} for {len(strides)} levels: give one for each but the last"
            )
        self.center_radius = center_radius
        self.box_activation = box_activation
        self.sizes = list(itertools.pairwise([0.0, *bounds, torch.inf]))

    def assign(
        self,
        anchors: list[Tensor],
        valid: Tensor,
        predictions: DensePredictions,
        truth: PaddedTruth,
    ) -> DenseTargets:
        sizes = [
            torch.stack([boxes.new_full((len(boxes),), end) for end in ends], dim=1)
            for boxes, ends in zip(anchors, self.sizes)
        ]
        everywhere = torch.cat(anchors)
        reach = None
        if self.center_radius is not None:
            reach = self.center_radius * self.strides_of(everywhere)
        matches = fcos_match(everywhere, truth, sizes=torch.cat(sizes), reach=reach)
        return self.matched_targets(matches, valid, truth)

    def count(self, positive: Tensor) -> Tensor:
        """Count positives (N, A) of the batch."""
        return positive.sum()

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """See `DenseHead.decode`."""
        if self.box_activation == "exp":
            # in the background, too: what is infinite there would spoil the sum
            return boxes_around(anchors, regression.clamp(max=LARGEST_LOG).exp())
        return boxes_around(anchors, regression.relu() * self.strides_of(anchors)[..., None])
