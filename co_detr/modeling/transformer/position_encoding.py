"""Sine position encodings of feature maps and of box coordinates.

Letters: N images, C channels.
"""

import math

import torch
from torch import Tensor, nn


def sine_embedding(coordinates: Tensor, num_features: int, temperature: float = 10000.0) -> Tensor:
    """Embed numbers as interleaved sines and cosines of growing wave length.

    Args:
        coordinates: (..., k), in radians (a normalized coordinate times 2 pi).
        num_features: features per coordinate, even.
        temperature: ratio of the longest to the shortest wave length.

    Returns:
        (..., k * num_features), coordinate by coordinate, in each sin, cos, sin, cos, ...
    """
    exponent = torch.arange(0, num_features, 2, dtype=torch.float32, device=coordinates.device)
    angles = coordinates[..., None] / temperature ** (exponent / num_features)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def box_embedding(boxes: Tensor, num_features: int) -> Tensor:
    """Embed normalized cxcywh boxes (..., 4) as DAB-DETR does: in the order y, x, w, h.

    Returns:
        (..., 4 * num_features), where `sine_embedding` with the boxes as they are keeps the order
        x, y, w, h.
    """
    x, y, w, h = boxes.unbind(-1)
    return sine_embedding(torch.stack([y, x, w, h], dim=-1) * (2 * math.pi), num_features)


class SinePositionEncoding(nn.Module):
    """Position encoding of a map's valid part, normalized to its extent (DETR, appendix A.4).

    Args:
        embed_dim: C, split evenly between the two axes.
        temperature: 10000 in Deformable-DETR, 20 in DINO.
        offset: added to the cell counts before normalization: -0.5 in Deformable-DETR, 0 in DINO.
    """

    def __init__(self, *, embed_dim: int, temperature: float = 10000.0, offset: float = -0.5):
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"embed_dim must be a multiple of 4, got {embed_dim}")
        self.num_features = embed_dim // 2
        self.temperature = temperature
        self.offset = offset

    def forward(self, padding: Tensor) -> Tensor:
        """Map padding (N, H, W), True = padding, to encodings (N, C, H, W), y features first."""
        valid = (~padding).float()
        y, x = valid.cumsum(1), valid.cumsum(2)
        y = (y + self.offset) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
        x = (x + self.offset) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
        encoding = sine_embedding(torch.stack([y, x], -1), self.num_features, self.temperature)
        return encoding.permute(0, 3, 1, 2)
