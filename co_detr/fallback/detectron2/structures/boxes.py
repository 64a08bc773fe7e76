"""Axis-aligned boxes in absolute coordinates, their formats and overlaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np
import torch

__all__ = ["BoxMode", "Boxes", "pairwise_intersection", "pairwise_ioa", "pairwise_iou"]

RawBoxes = TypeVar("RawBoxes", list, tuple, np.ndarray, torch.Tensor)


class BoxMode(IntEnum):
    """What the four numbers of a box mean; XY is the upper left corner."""

    XYXY_ABS = 0
    """(x0, y0, x1, y1) in pixels."""
    XYWH_ABS = 1
    """(x0, y0, width, height) in pixels."""
    XYXY_REL = 2
    """(x0, y0, x1, y1) as fractions of the image; cannot be converted without its size."""
    XYWH_REL = 3
    """(x0, y0, width, height) as fractions of the image; cannot be converted without its size."""

    @staticmethod
    def convert(box: RawBoxes, from_mode: BoxMode, to_mode: BoxMode) -> RawBoxes:
        """Convert between the two absolute modes.

        Args:
            box: one box as a list or tuple, or an array or tensor (..., 4).
            from_mode: of `box`.
            to_mode: wanted.

        Returns:
            a new object of the type and dtype of `box`; `box` itself if the modes are equal.

        Raises:
            AssertionError: for relative modes, or if there are not four numbers in a box.
        """
        if from_mode == to_mode:
            return box
        modes = (BoxMode(from_mode), BoxMode(to_mode))
        assert set(modes) == {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}, (
            f"cannot convert from {modes[0].name} to {modes[1].name}; "
            "scale relative boxes by the image size first"
        )
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        if isinstance(box, (list, tuple)):
            assert len(box) == 4, f"a box has four numbers, got {box}"
            x0, y0, a, b = box
            return type(box)((x0, y0, a + sign * x0, b + sign * y0))
        assert box.shape[-1] == 4, f"boxes have four numbers, got shape {tuple(box.shape)}"
        converted = box.clone() if isinstance(box, torch.Tensor) else box.copy()
        converted[..., 2:] += sign * converted[..., :2]
        return converted


class Boxes:
    """A list of boxes (x0, y0, x1, y1) in absolute coordinates.

    Args:
        tensor: (N, 4) numbers as a tensor, array or nested list; stored as float32 in `tensor`.
            Anything empty becomes (0, 4).
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray | Sequence):
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 4)
        assert (
            tensor.dim() == 2 and tensor.size(-1) == 4
        ), f"boxes have shape (N, 4), got {tuple(tensor.shape)}"
        self.tensor = tensor

    def clone(self) -> Boxes:
        """Return a copy with its own memory."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        """Return the boxes on a device."""
        return Boxes(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> torch.Tensor:
        """Return the areas (N,) in square pixels."""
        width, height = (self.tensor[:, 2:] - self.tensor[:, :2]).unbind(dim=1)
        return width * height

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit x to [0, width] and y to [0, height], in place.

        Args:
            box_size: (height, width).

        Raises:
            AssertionError: if a coordinate is not finite.
        """
        assert torch.isfinite(self.tensor).all(), "a box has a coordinate that is not finite"
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        self.tensor = torch.stack(
            (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)),
            dim=1,
        )

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Return (N,) bool: both sides longer than `threshold`."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Tell which boxes lie inside an image.

        Args:
            box_size: (height, width).
            boundary_threshold: how far boxes may reach over the border, in pixels.

        Returns:
            Tensor: (N,) bool. A right or lower edge exactly on the limit counts as outside.
        """
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        start = torch.minimum(x0, y0) >= -boundary_threshold
        return start & (x1 < width + boundary_threshold) & (y1 < height + boundary_threshold)

    def get_centers(self) -> torch.Tensor:
        """Return the centres (N, 2) as (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """Join boxes in order; the result never shares memory with its parts."""
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list), "only Boxes can be joined"
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else [])

    def __getitem__(self, item) -> Boxes:
        """Select by integer (one box), slice, indices (M,) or mask (N,)."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, 4))
        selected = self.tensor[item]
        assert selected.dim() == 2, f"index {item} selects parts of boxes"
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each box as a tensor (4,)."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Return the shared areas (N, M) of N and M boxes, in square pixels."""
    first, second = boxes1.tensor[:, None], boxes2.tensor[None]
    upper_left = torch.maximum(first[..., :2], second[..., :2])
    lower_right = torch.minimum(first[..., 2:], second[..., 2:])
    width, height = (lower_right - upper_left).clamp(min=0).unbind(dim=2)
    return width * height


def _ratio(shared: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Divide areas; no shared area gives 0 even if the whole is empty."""
    return torch.where(shared > 0, shared / whole, shared.new_zeros(()))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Return intersection over union (N, M) of N and M boxes; 0 where neither has an area."""
    shared = pairwise_intersection(boxes1, boxes2)
    return _ratio(shared, boxes1.area()[:, None] + boxes2.area() - shared)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Return intersection over the area of the second boxes (N, M); 0 where they have none."""
    return _ratio(pairwise_intersection(boxes1, boxes2), boxes2.area())
