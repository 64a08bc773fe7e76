"""Anchors of a pyramid, and which of them belong to the valid part of an image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor, nn

from co_detr.ops.eager_cpu import holds_numbers


def box_transform(delta_std: tuple[float, float, float, float]) -> Box2BoxTransform:
    """Deltas (dx, dy, dw, dh) in units of `delta_std`, their spread."""
    dx, dy, dw, dh = delta_std
    return Box2BoxTransform(weights=(1 / dx, 1 / dy, 1 / dw, 1 / dh))


class PyramidAnchors(nn.Module):
    """Anchors whose size follows the stride of their level.

    The anchor of cell (x, y) is centred on (x * stride, y * stride), as in the released model, and
    shifted from there by `offset` strides. The anchors of a cell run through all scales of the
    first aspect ratio, then of the next: released weights fit this order without permutation.

    What was last computed is kept: often the next batch has the same sizes.

    Args:
        strides: of the pyramid's levels, fine to coarse.
        scale: side of the smallest square anchor, in strides.
        scales_per_octave: number of sizes, `scale * 2^(i / scales_per_octave)`.
        aspect_ratios: height over width, at constant area.
        pad_multiple: the padding up to the next multiple of so many pixels counts as valid; what
            models see whose training pads each image so before batches are made.
        offset: 0.5 for the middle of the cell.
        padding_valid: all cells count as valid.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int],
        scale: float,
        scales_per_octave: int = 1,
        aspect_ratios: Sequence[float] = (1.0,),
        pad_multiple: int = 1,
        offset: float = 0.0,
        padding_valid: bool = False,
    ):
        super().__init__()
        self.pad_multiple = pad_multiple
        self.padding_valid = padding_valid
        self.strides = tuple(strides)
        self.scales_per_octave = scales_per_octave
        self.num_ratios = len(aspect_ratios)
        scales = [scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        self.generator = DefaultAnchorGenerator(
            sizes=[[scale * stride for scale in scales] for stride in self.strides],
            aspect_ratios=[list(aspect_ratios)],
            strides=list(self.strides),
            offset=offset,
        )
        self._last_anchors, self._last_valid = _Last(), _Last()

    @property
    def num_per_cell(self) -> int:
        """Anchors at each position, the same on all levels."""
        return self.scales_per_octave * self.num_ratios

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Place anchors on the maps (N, C, H_l, W_l).

        Returns:
            Per level (H_l * W_l * num_per_cell, 4): absolute XYXY, cells row by row.

        Raises:
            ValueError: the number of maps is not the number of strides.
        """
        if len(features) != len(self.strides):
            raise ValueError(
                f"{len(features)} feature maps for strides {self.strides}: give this head as many "
                "strides as the pyramid has levels"
            )
        return list(self._last_anchors(features, (), lambda: self._place(features)))

    def _place(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = [boxes.tensor for boxes in self.generator(features)]
        if self.scales_per_octave == 1 or self.num_ratios == 1:
            return levels
        # detectron2 runs through the ratios of each size; here it is the other way round.
        by_size = (-1, self.scales_per_octave, self.num_ratios, 4)
        return [level.view(by_size).transpose(1, 2).reshape(-1, 4) for level in levels]

    def valid(self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Tell anchors of cells that touch the valid area from anchors in the padding.

        Returns:
            (N, A) bool over the anchors of all levels: in row and column, cell < size / stride,
            rounded up; everywhere with `padding_valid`.
        """
        sizes = tuple(map(tuple, image_sizes))
        return self._last_valid(features, sizes, lambda: self._find_valid(features, image_sizes))

    def _find_valid(
        self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        device = features[0].device
        shapes = [feature.shape[-2:] for feature in features]
        if self.padding_valid:
            cells = sum(height * width for height, width in shapes)
            return torch.ones(
                len(image_sizes), cells * self.num_per_cell, dtype=torch.bool, device=device
            )
        limits = torch.tensor(
            [[self._valid_cells(size, stride) for stride in self.strides] for size in image_sizes],
            device=device,
        )
        levels = []
        for (height, width), limit in zip(shapes, limits.unbind(1)):
            rows = torch.arange(height, device=device) < limit[:, :1]
            columns = torch.arange(width, device=device) < limit[:, 1:]
            levels.append((rows[:, :, None] & columns[:, None]).flatten(1))
        valid = torch.cat(levels, dim=1)
        return valid[..., None].expand(-1, -1, self.num_per_cell).flatten(1)

    def _valid_cells(self, size: tuple[int, int], stride: int) -> list[int]:
        """Rows and columns of a level that touch the valid area of an image (height, width)."""
        padded = (math.ceil(side / self.pad_multiple) * self.pad_multiple for side in size)
        return [math.ceil(side / stride) for side in padded]


class _Last:
    """Remembers one result for maps: the next ones of the same sizes may get it, too."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Any] = (None, None)

    def __call__(self, maps: Sequence[Tensor], besides: tuple, compute: Callable[[], Any]) -> Any:
        """The result for the sizes, type and device of `maps`, and for whatever it depends on
        besides."""
        if not holds_numbers(maps[0]):
            return compute()
        key = maps[0].device, maps[0].dtype, tuple(tuple(x.shape[-2:]) for x in maps), besides
        known, result = self._kept
        if known != key:
            with torch.inference_mode(False), torch.no_grad():  # training may be next
                result = compute()
            self._kept = key, result
        return result
