"""The encoder of single-scale DETRs: every token attends to every other.

Letters: N images, S encoder tokens (of the one level, row-major), C channels.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ..queries.group import Span
from ..recompute import call
from .attention import FeedForward, SelfAttention
from .encoder import EncoderMemory, count_valid_cells, resample_padding
from .prediction import mlp, with_xavier


class DenseEncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, normalized afterwards (DETR, section 3.2).

    Args:
        embed_dim: C.
        num_heads: attention heads.
        ffn_dim: width of the feed-forward network.
        dropout: of attention weights, activations and the outputs of both blocks.
        activation: of the feed-forward network.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        activation: Literal["relu", "prelu"] = "relu",
    ):
        super().__init__()
        self.attention = SelfAttention(embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(
            embed_dim=embed_dim, hidden_dim=ffn_dim, activation=activation, dropout=dropout
        )
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor, span: Span) -> Tensor:
        """Refine tokens (N, S, C) at positions (N, S, C)."""
        attended = self.attention(tokens, position, [span])
        tokens = self.attention_norm(tokens + self.dropout(attended))
        return self.ffn_norm(tokens + self.dropout(self.ffn(tokens)))


class DenseEncoder(nn.Module):
    """A stack of encoder layers over one scale; padding is seen by nobody.

    Args:
        position_encoding: maps padding (N, H, W) to (N, C, H, W).
        embed_dim: C.
        num_layers: encoder layers.
        scale_position: before each layer, the position encoding is multiplied by what a network
            makes of the tokens (DAB-DETR).
        num_checkpointed: so many of the first layers recompute their activations in the backward
            pass instead of keeping them.
        layer: the other options of `DenseEncoderLayer`.
    """

    def __init__(
        self,
        *,
        position_encoding: nn.Module,
        embed_dim: int = 256,
        num_layers: int = 6,
        scale_position: bool = False,
        num_checkpointed: int = 0,
        **layer,
    ):
        super().__init__()
        self.position_encoding = position_encoding
        self.layers = nn.ModuleList(
            DenseEncoderLayer(embed_dim=embed_dim, **layer) for _ in range(num_layers)
        )
        self.num_checkpointed = num_checkpointed
        self.position_scale = None
        if scale_position:
            self.position_scale = with_xavier(mlp(embed_dim, embed_dim, embed_dim))

    def forward(self, features: Sequence[Tensor], padding: Tensor) -> EncoderMemory:
        """Encode one map (N, C, H_0, W_0).

        Args:
            features: the neck's maps, of which there must be one.
            padding: (N, H, W) bool at the resolution of the images, True outside the image.
        """
        if len(features) != 1:
            raise ValueError(
                f"{len(features)} maps for an encoder of a single scale: set neck.num_outs=1"
            )
        shape = features[0].shape[-2], features[0].shape[-1]
        padding = resample_padding(padding, shape)
        tokens = features[0].flatten(2).transpose(1, 2)
        position = self.position_encoding(padding).flatten(2).transpose(1, 2).to(tokens.dtype)
        everything = slice(0, tokens.shape[1])
        span = Span(everything, (everything,), ~padding.flatten(1)[:, None, None])
        for index, layer in enumerate(self.layers):
            scaled = position
            if self.position_scale is not None:
                scaled = position * self.position_scale(tokens)
            recompute = self.training and index < self.num_checkpointed
            tokens = call(layer, tokens, scaled, span, recompute=recompute)
        return EncoderMemory(
            tokens,
            padding.flatten(1),
            [shape],
            count_valid_cells(padding)[:, None],
            position=position,
        )
