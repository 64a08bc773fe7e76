"""Attention in which content and position stay apart (Conditional DETR, section 3).

Letters: N images, S encoder tokens, Q queries (of all groups), C channels, M attention heads.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..queries.group import Span
from .attention import FeedForward, attend_in_spans, join_heads, split_heads
from .encoder import EncoderMemory
from .prediction import with_xavier


class ConditionalSelfAttention(nn.Module):
    """Self-attention within groups; content and position have projections of their own."""

    def __init__(self, *, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_content = _linear(embed_dim)
        self.query_position = _linear(embed_dim)
        self.key_content = _linear(embed_dim)
        self.key_position = _linear(embed_dim)
        self.value = _linear(embed_dim)
        self.output = _linear(embed_dim)

    def forward(self, content: Tensor, position: Tensor, spans: Sequence[Span]) -> Tensor:
        """Attend with keys and queries from content and position, values from content.

        All of them are (N, Q, C).
        """
        query = self.query_content(content) + self.query_position(position)
        key = self.key_content(content) + self.key_position(position)
        query, key, value = (
            split_heads(x, self.num_heads) for x in (query, key, self.value(content))
        )
        dropout = self.dropout if self.training else 0.0
        return self.output(join_heads(attend_in_spans(query, key, value, spans, dropout)))


class ConditionalCrossAttention(nn.Module):
    """Dense attention to the memory whose scores are the sum of a content and a spatial part.

    Queries and keys of each head are a half of content and a half of place, side by side, so that
    one's content is never compared with the other's place (Conditional DETR, section 3.3).

    Args:
        embed_dim: C.
        num_heads: M.
        dropout: of the attention weights, in training.
        mix_position: add the position to the content as well, as the first layer of a decoder does,
            whose content says nothing yet.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        dropout: float = 0.0,
        mix_position: bool = False,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_content = _linear(embed_dim)
        self.query_position = _linear(embed_dim) if mix_position else None
        self.query_spatial = _linear(embed_dim)
        self.key_content = _linear(embed_dim)
        self.key_position = _linear(embed_dim)
        self.value = _linear(embed_dim)
        self.output = _linear(embed_dim)

    def forward(
        self, content: Tensor, position: Tensor, spatial: Tensor, memory: EncoderMemory
    ) -> Tensor:
        """Gather from the tokens that are no padding.

        Args:
            content: (N, Q, C).
            position: (N, Q, C), read with `mix_position` only.
            spatial: (N, Q, C), where the query looks: sine features in the order of the memory's
                position encoding, y before x.
            memory: with positions.

        Returns:
            (N, Q, C).

        Raises:
            ValueError: the memory does not say where its tokens are.
        """
        query, key = self.queries_and_keys(content, position, spatial, memory)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            split_heads(self.value(memory.tokens), self.num_heads),
            ~memory.padding[:, None, None],
            self.dropout if self.training else 0.0,
        )
        return self.output(join_heads(attended))

    def queries_and_keys(
        self, content: Tensor, position: Tensor, spatial: Tensor, memory: EncoderMemory
    ) -> tuple[Tensor, Tensor]:
        """What is compared: (N, M, Q, 2 C / M) and (N, M, S, 2 C / M); see `forward`."""
        if memory.position is None:
            raise ValueError("conditional attention needs positions of tokens: use a DenseEncoder")
        query, key = self.query_content(content), self.key_content(memory.tokens)
        key_position = self.key_position(memory.position)
        if self.query_position is not None:
            query = query + self.query_position(position)
            key = key + key_position
        query, spatial, key, key_position = (
            split_heads(x, self.num_heads)
            for x in (query, self.query_spatial(spatial), key, key_position)
        )
        return torch.cat([query, spatial], dim=-1), torch.cat([key, key_position], dim=-1)


class ConditionalDecoderLayer(nn.Module):
    """Self-attention within groups, conditional cross-attention, feed-forward; all post-norm.

    Args:
        first: whether this is a decoder's first layer; see `mix_position` of the cross-attention.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        activation: Literal["relu", "prelu"] = "relu",
        first: bool = False,
    ):
        super().__init__()
        self.self_attention = ConditionalSelfAttention(
            embed_dim=embed_dim, num_heads=num_heads, dropout=dropout
        )
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = ConditionalCrossAttention(
            embed_dim=embed_dim, num_heads=num_heads, dropout=dropout, mix_position=first
        )
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(
            embed_dim=embed_dim, hidden_dim=ffn_dim, activation=activation, dropout=dropout
        )
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        spatial: Tensor,
        memory: EncoderMemory,
        spans: Sequence[Span],
    ) -> Tensor:
        """Refine content (N, Q, C); position and spatial as in `ConditionalCrossAttention`."""
        attended = self.self_attention(content, position, spans)
        content = self.self_norm(content + self.dropout(attended))
        attended = self.cross_attention(content, position, spatial, memory)
        content = self.cross_norm(content + self.dropout(attended))
        return self.ffn_norm(content + self.dropout(self.ffn(content)))


def _linear(width: int) -> nn.Module:
    return with_xavier(nn.Linear(width, width))
