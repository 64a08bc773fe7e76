"""Anchors: boxes of fixed shapes at every position of a feature map."""

from collections.abc import Sequence

import torch
from torch import nn

from detectron2.structures import Boxes


def _per_level(values: Sequence, levels: int, name: str) -> list[list[float]]:
    """Bring a flat list, a single list or one list per level to one list per level."""
    assert (
        isinstance(values, Sequence) and len(values) > 0
    ), f"{name} must be a non-empty list, got {values!r}"
    if not isinstance(values[0], Sequence):
        values = [values]
    if len(values) == 1:
        values = list(values) * levels
    assert len(values) == levels, f"{name} has {len(values)} lists for {levels} strides"
    return [[float(value) for value in level] for level in values]


class DefaultAnchorGenerator(nn.Module):
    """Anchors of all combinations of sizes and aspect ratios (Faster R-CNN, Sec. 3.1.1).

    Args:
        sizes: square roots of the anchors' areas, in pixels of the input image; per level a list,
            or one list for all levels.
        aspect_ratios: height over width; same forms.
        strides: of each feature map.
        offset: place of the first anchor's centre, in strides from the corner of the image; 0.5
            centres anchors on the cells.

    Raises:
        AssertionError: `offset` is not in [0, 1), or the lists do not fit the number of strides.
    """

    box_dim = 4

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ):
        super().__init__()
        assert 0.0 <= offset < 1.0, f"offset must be in [0, 1), got {offset}"
        self.strides = list(strides)
        self.offset = offset
        levels = len(self.strides)
        sizes = _per_level(sizes, levels, "sizes")
        aspect_ratios = _per_level(aspect_ratios, levels, "aspect_ratios")
        for i in range(levels):
            # A buffer, so that it moves with the module; not persistent, since it is all config.
            cell = self.generate_cell_anchors(sizes[i], aspect_ratios[i])
            self.register_buffer(f"_cell_anchors_{i}", cell, persistent=False)

    @property
    def cell_anchors(self) -> list[torch.Tensor]:
        """Per level (A, 4): XYXY anchors of a cell, relative to its centre."""
        return [getattr(self, f"_cell_anchors_{i}") for i in range(len(self.strides))]

    @property
    def num_anchors(self) -> list[int]:
        """Per level the number of anchors at each position."""
        return [len(cell) for cell in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        """Another name of `num_anchors`."""
        return self.num_anchors

    @staticmethod
    def generate_cell_anchors(
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> torch.Tensor:
        """Build (A, 4) XYXY anchors centred on the origin: size by size, each in all ratios."""
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = size / ratio**0.5
                height = width * ratio
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(anchors, dtype=torch.float32)

    def forward(self, features: Sequence[torch.Tensor]) -> list[Boxes]:
        """Place anchors on feature maps.

        Args:
            features: one (N, C, H, W) map per stride; only H and W matter.

        Returns:
            Per map H * W * A boxes in image pixels, row by row, the anchors of a position together;
            the same for all images; on the generator's device.
        """
        assert len(features) == len(
            self.strides
        ), f"{len(features)} feature maps for {len(self.strides)} strides"
        boxes = []
        for feature, stride, cell in zip(features, self.strides, self.cell_anchors):
            height, width = feature.shape[-2:]
            y = (torch.arange(height, dtype=cell.dtype, device=cell.device) + self.offset) * stride
            x = (torch.arange(width, dtype=cell.dtype, device=cell.device) + self.offset) * stride
            y, x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            boxes.append(Boxes((centres + cell).reshape(-1, 4)))
        return boxes
