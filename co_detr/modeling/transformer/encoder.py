"""The deformable transformer encoder.

Letters: N images, S encoder tokens (all levels, fine to coarse, row-major), C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..recompute import call
from .attention import DeformableAttention, FeedForward, in_cache


@dataclass(frozen=True, eq=False)
class EncoderMemory:
    """What the encoder made of a batch.

    Attributes:
        tokens: (N, S, C).
        padding: (N, S) bool, True = outside the image.
        spatial_shapes: (height, width) of each level.
        valid_cells: (N, levels, 2), valid (columns, rows) of each level.
        position: (N, S, C) encodings of the tokens' places, for decoders that attend to all tokens;
            None where no decoder asks.
    """

    tokens: Tensor
    padding: Tensor
    spatial_shapes: list[tuple[int, int]]
    valid_cells: Tensor
    position: Tensor | None = None

    @property
    def valid_ratios(self) -> Tensor:
        """(N, levels, 2): the valid share of each level's (width, height).

        Computed anew each time, with a copy to the device.
        """
        sizes = [(w, h) for h, w in self.spatial_shapes]
        return self.valid_cells / self.valid_cells.new_tensor(sizes)

    def maps(self) -> list[Tensor]:
        """The tokens as feature maps, (N, C, H_l, W_l) each."""
        levels = self.tokens.split([h * w for h, w in self.spatial_shapes], dim=1)
        return [
            level.transpose(1, 2).unflatten(2, shape)
            for level, shape in zip(levels, self.spatial_shapes)
        ]


def cell_centers(shape: tuple[int, int], device: torch.device) -> Tensor:
    """(h * w, 2): (x, y) of every cell's centre, in cells, row-major."""
    h, w = shape
    y, x = torch.meshgrid(
        torch.arange(h, dtype=torch.float32, device=device) + 0.5,
        torch.arange(w, dtype=torch.float32, device=device) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], -1).view(h * w, 2)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, normalized afterwards.

    Args:
        embed_dim: C.
        num_heads, num_levels, num_points: see `DeformableAttention`.
        ffn_dim: width of the feed-forward network.
        ffn_tokens_at_once: in training, what follows the attention is computed for so many tokens,
            and again in the backward pass, instead of kept for all: two thirds of what the layer
            keeps; None to keep it.

    Raises:
        ValueError: `ffn_tokens_at_once` is less than 1.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 2048,
        ffn_tokens_at_once: int | None = None,
    ):
        super().__init__()
        if ffn_tokens_at_once is not None and ffn_tokens_at_once < 1:
            raise ValueError(
                f"ffn_tokens_at_once must be at least 1, or None, got {ffn_tokens_at_once}"
            )
        self.ffn_tokens_at_once = ffn_tokens_at_once
        self.attention = DeformableAttention(
            embed_dim=embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(embed_dim=embed_dim, hidden_dim=ffn_dim)
        self.ffn_norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens, position, centers, offset_scale, padding, spatial_shapes) -> Tensor:
        """Refine tokens (N, S, C); the other arguments are those of `DeformableAttention`."""
        attended = self.attention(
            tokens + position, centers, offset_scale, tokens, padding, spatial_shapes
        )
        if self.training and self.ffn_tokens_at_once is not None:
            parts = (x.split(self.ffn_tokens_at_once, dim=1) for x in (tokens, attended))
            return torch.cat(
                [call(self._after_attention, *p, recompute=True) for p in zip(*parts)],
                dim=1,
            )
        if torch.is_grad_enabled():  # what is kept in many parts would scatter over the memory
            return self._after_attention(tokens, attended)
        return in_cache(self._after_attention, tokens, attended)

    def _after_attention(self, tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = self.attention_norm(tokens + attended)
        return self.ffn_norm(tokens + self.ffn(tokens))


class DeformableEncoder(nn.Module):
    """A stack of deformable encoder layers over all levels at once.

    Args:
        position_encoding: maps padding (N, H, W) to (N, C, H, W).
        num_layers: encoder layers.
        num_checkpointed: so many of the first layers recompute their activations in the backward
            pass instead of keeping them.
        layer: the other options of `DeformableEncoderLayer`.
    """

    def __init__(
        self,
        *,
        position_encoding: nn.Module,
        embed_dim: int = 256,
        num_layers: int = 6,
        num_levels: int = 4,
        num_checkpointed: int = 0,
        **layer,
    ):
        super().__init__()
        self.position_encoding = position_encoding
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(embed_dim=embed_dim, num_levels=num_levels, **layer)
            for _ in range(num_layers)
        )
        self.num_checkpointed = num_checkpointed

    def forward(self, features: Sequence[Tensor], padding: Tensor) -> EncoderMemory:
        """Encode maps (N, C, H_l, W_l), fine to coarse.

        Args:
            features: the neck's maps.
            padding: (N, H, W) bool at the resolution of the images, True outside the image.
        """
        if len(features) != len(self.level_embed):
            raise ValueError(f"{len(features)} maps for an encoder of {len(self.level_embed)}")
        shapes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        masks = [resample_padding(padding, shape) for shape in shapes]
        position = torch.cat(
            [
                self.position_encoding(mask).flatten(2).transpose(1, 2) + embed
                for mask, embed in zip(masks, self.level_embed)
            ],
            dim=1,
        )
        memory = EncoderMemory(
            tokens=torch.cat([f.flatten(2).transpose(1, 2) for f in features], dim=1),
            padding=torch.cat([mask.flatten(1) for mask in masks], dim=1),
            spatial_shapes=shapes,
            valid_cells=torch.stack([count_valid_cells(mask) for mask in masks], dim=1),
        )
        centers = self._references(memory)
        sizes = centers.new_tensor([(w, h) for h, w in shapes])
        tokens, one_cell = memory.tokens, (1 / sizes)[None, None]
        for index, layer in enumerate(self.layers):
            inputs = (tokens, position, centers, one_cell, memory.padding, shapes)
            recompute = self.training and index < self.num_checkpointed
            tokens = call(layer, *inputs, recompute=recompute)
        return EncoderMemory(tokens, memory.padding, shapes, memory.valid_cells)

    @staticmethod
    def _references(memory: EncoderMemory) -> Tensor:
        """(N, S, levels, 2): each cell's centre as a fraction of each padded target level.

        Cells in the padding come out above 1 of the valid part and are processed like any other.
        """
        fractions = [
            cell_centers(shape, memory.tokens.device) / memory.valid_cells[:, None, level]
            for level, shape in enumerate(memory.spatial_shapes)
        ]
        return torch.cat(fractions, dim=1)[:, :, None] * memory.valid_ratios[:, None]


def resample_padding(padding: Tensor, shape: tuple[int, int]) -> Tensor:
    """Nearest neighbour: (N, H, W) bool to (N, *shape), cell i reads pixel floor(i * H / h)."""
    return F.interpolate(padding[:, None].float(), size=shape)[:, 0].bool()


def count_valid_cells(padding: Tensor) -> Tensor:
    """(N, 2): unpadded cells in the first row and in the first column, at least one."""
    columns = (~padding[:, 0, :]).sum(1)
    rows = (~padding[:, :, 0]).sum(1)
    return torch.stack([columns, rows], -1).float().clamp(min=1)
