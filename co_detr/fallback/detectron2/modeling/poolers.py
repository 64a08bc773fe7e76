"""Features of boxes, each taken from the pyramid level that fits its size."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import roi_align

from detectron2.layers import cat
from detectron2.structures import Boxes

# Whether pixel centres are at half-integer coordinates; "V2" does it, which is exact below a pixel.
_ALIGNED = {"ROIAlign": False, "ROIAlignV2": True}


def assign_boxes_to_levels(
    box_lists: list[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: float,
    canonical_level: int,
) -> torch.Tensor:
    """Choose a pyramid level for each box by its area (Lin et al., FPN, CVPR 2017, Eq. 1).

    Level l has stride 2^l. A square of side `canonical_box_size` goes to `canonical_level`, one
    twice as large to the next level, and so on within [min_level, max_level].

    Returns:
        (R,) int64, counted from `min_level`, for the boxes of all images one after the other.
    """
    side = cat([boxes.area() for boxes in box_lists]).sqrt()
    # The epsilon gives boxes without area a finite logarithm.
    levels = torch.floor(canonical_level + torch.log2(side / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


class ROIPooler(nn.Module):
    """RoIAlign on a feature pyramid (He et al., Mask R-CNN, ICCV 2017, Sec. 3; levels from FPN).

    Args:
        output_size: bins per box, one number or (height, width).
        scales: 1 / stride of each feature map, finest first, each half the one before.
        sampling_ratio: sampling points per bin and axis; 0 for as many as the bin has pixels.
        pooler_type: "ROIAlignV2", or "ROIAlign", the older one that is off by half a pixel.
        canonical_box_size, canonical_level: see `assign_boxes_to_levels`.

    Raises:
        ValueError: the pooler type is unknown.
        AssertionError: scales are not falling powers of two.
    """

    def __init__(
        self,
        output_size: int | Sequence[int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: float = 224,
        canonical_level: int = 4,
    ):
        super().__init__()
        if pooler_type not in _ALIGNED:
            raise ValueError(f"unknown pooler type {pooler_type!r}: choose from {list(_ALIGNED)}")
        self.output_size = (
            (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        )
        assert len(self.output_size) == 2, f"output_size must be (height, width): {output_size}"
        levels = [-math.log2(scale) for scale in scales]
        self.scales = tuple(scales)
        self.min_level = round(levels[0])
        self.max_level = round(levels[-1])
        expected = range(self.min_level, self.min_level + len(levels))
        assert self.min_level >= 0 and all(
            math.isclose(level, wanted, abs_tol=1e-6) for level, wanted in zip(levels, expected)
        ), f"scales must be powers of two of at most 1 that halve from level to level: {scales}"
        assert canonical_box_size > 0, f"canonical_box_size must be positive: {canonical_box_size}"
        self.sampling_ratio = sampling_ratio
        self.pooler_type = pooler_type
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Pool the features of boxes.

        Args:
            x: per level a map (N, C, H_l, W_l).
            box_lists: N lists of boxes, XYXY in pixels of the input image.

        Returns:
            (R, C, height, width) for the R boxes of all images one after the other, in the dtype
            of the maps.
        """
        assert len(x) == len(self.scales), f"{len(x)} feature maps for {len(self.scales)} scales"
        assert len(box_lists) == len(x[0]), f"{len(box_lists)} box lists for {len(x[0])} images"
        if not box_lists:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))

        rois = cat(
            [
                torch.cat([boxes.tensor.new_full((len(boxes), 1), i), boxes.tensor], dim=1)
                for i, boxes in enumerate(box_lists)
            ]
        )
        if len(x) == 1:
            return self._pool(x[0], rois, self.scales[0])

        levels = assign_boxes_to_levels(
            box_lists,
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )
        # Sorted by level, the boxes of a level are a slice: one device-to-host copy for all levels.
        order = levels.argsort(stable=True)
        counts = torch.bincount(levels, minlength=len(x)).tolist()
        pooled = torch.cat(
            [
                self._pool(feature, part, scale)
                for feature, part, scale in zip(x, rois[order].split(counts), self.scales)
            ]
        )
        return torch.empty_like(pooled).index_copy(0, order, pooled)

    def _pool(self, feature: torch.Tensor, rois: torch.Tensor, scale: float) -> torch.Tensor:
        """Pool rois (R, 5), image index and box, from one map.

        16-bit maps are pooled in float32: coordinates of large images do not fit in 16 bits.
        """
        dtype = torch.promote_types(feature.dtype, torch.float32)
        return roi_align(
            feature.to(dtype),
            rois.to(dtype),
            self.output_size,
            scale,
            self.sampling_ratio,
            _ALIGNED[self.pooler_type],
        ).to(feature.dtype)
