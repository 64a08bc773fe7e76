"""Images of different sizes in one padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

__all__ = ["ImageList"]


class ImageList:
    """A batch of images padded at the bottom and at the right, and their sizes without padding.

    Args:
        tensor: (N, ..., H, W).
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    @classmethod
    def from_tensors(
        cls,
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> ImageList:
        """Pad images to a common size.

        Args:
            tensors: (..., H_i, W_i) each, with equal leading dimensions.
            size_divisibility: the common size becomes a multiple of it.
            pad_value: of the added pixels.
            padding_constraints: the `padding_constraints` of a backbone: a positive "square_size"
                is the common height and width, "size_divisibility" replaces the argument.

        Raises:
            AssertionError: if there is no image, or they differ in more than height and width.
        """
        assert len(tensors) > 0, "a batch needs at least one image"
        for t in tensors:
            assert isinstance(t, torch.Tensor), f"images must be tensors, got {type(t)}"
            assert (
                t.shape[:-2] == tensors[0].shape[:-2]
            ), f"images differ in shape: {tuple(t.shape)} and {tuple(tensors[0].shape)}"
        constraints = padding_constraints or {}
        divisor = max(constraints.get("size_divisibility", size_divisibility), 1)
        image_sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        size = [max(lengths) for lengths in zip(*image_sizes)]
        if constraints.get("square_size", 0) > 0:
            size = [constraints["square_size"]] * 2
        height, width = ((length + divisor - 1) // divisor * divisor for length in size)
        padded = [
            F.pad(t, (0, width - w, 0, height - h), value=pad_value)
            for t, (h, w) in zip(tensors, image_sizes)
        ]
        return cls(torch.stack(padded).contiguous(), image_sizes)

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Return one image without padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args, **kwargs) -> ImageList:
        """Return the batch after `Tensor.to`."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device
