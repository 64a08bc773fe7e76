"""Attention and feed-forward blocks of the transformer.

Letters: N images, S encoder tokens, Q queries, C channels, M attention heads, P sampling points.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from co_detr.ops.ms_deform_attn import locations_and_weights, ms_deform_attn_from_offsets

from ..queries.group import Span

# So many tokens at a time go through what is done to each of them, on a CPU: intermediate results
# stay in its cache then, where those of a whole image would go to the memory and back.
TOKENS_IN_CACHE = 512


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, equation 3) with its projections.

    Args:
        embed_dim: C.
        num_heads: M.
        num_levels: feature levels sampled from.
        num_points: P, sampling points per head and level.
    """

    def __init__(
        self, *, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with each head looking in its own direction, point p at distance p + 1."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().max(-1, keepdim=True).values
        distance = torch.arange(1, self.num_points + 1)
        bias = direction[:, None, None] * distance[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        centers: Tensor,
        offset_scale: Tensor,
        memory: Tensor,
        padding: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Sample the memory around each query's reference.

        Args:
            query: (N, Q, C), content plus position.
            centers: (N, Q, levels, 2), (x, y) as a fraction of each padded level.
            offset_scale: broadcastable to (N, Q, levels, 2): the length of a unit offset in the
                same frame; one cell for reference points, half the box over P for reference boxes.
            memory: (N, S, C) tokens to sample from.
            padding: (N, S) bool, True where the memory is padding: its values count as zero.
            spatial_shapes: (height, width) of each level.

        Returns:
            (N, Q, C).
        """
        # the mask comes after the projection so that its bias does not leak out of the padding
        value = self.value_proj(memory).masked_fill_(padding[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))
        frame = centers, offset_scale
        sampled = ms_deform_attn_from_offsets(value, spatial_shapes, *frame, *self.project(query))
        return self.output_proj(sampled)

    def project(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (N, Q, M, levels, P, 2) and attention logits (N, Q, M, levels, P) of queries."""
        shape = self.num_heads, self.num_levels, self.num_points
        query = query.to(self.sampling_offsets.weight.dtype)
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))
        return offsets, self.attention_weights(query).unflatten(-1, shape)

    def samples(
        self, query: Tensor, centers: Tensor, offset_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where each query samples, and how much each sample counts; arguments as in `forward`.

        Returns:
            locations (N, Q, M, levels, P, 2), (x, y) as a fraction of each padded level, and
            weights (N, Q, M, levels, P), which add up to 1 for each head of a query.
        """
        return locations_and_weights(centers, offset_scale, *self.project(query))


def split_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """(N, Q, C) to (N, M, Q, C / M)."""
    return tensor.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(tensor: Tensor) -> Tensor:
    """(N, M, Q, C / M) to (N, Q, C)."""
    return tensor.transpose(1, 2).flatten(2)


def attend_in_spans(
    query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], dropout: float = 0.0
) -> Tensor:
    """Attention in which each query group sees only what its span declares.

    Scores are computed span by span, so the pairs of queries that may not see each other cost
    nothing.

    Args:
        query, key, value: (N, M, Q, C / M).
        spans: of all queries, in their order.
        dropout: probability with which a weight counts as zero.

    Returns:
        (N, M, Q, C / M).
    """
    attended = [
        F.scaled_dot_product_attention(
            query[:, :, span.queries], span.keys_of(key), span.keys_of(value), span.mask, dropout
        )
        for span in spans
    ]
    return torch.cat(attended, dim=2)


class SelfAttention(nn.Module):
    """Multi-head self-attention in which each query group sees only what its span declares.

    Parameters are named as in `torch.nn.MultiheadAttention`.

    Args:
        embed_dim: C.
        num_heads: M.
        dropout: of the attention weights, in training.
    """

    def __init__(self, *, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content: Tensor, position: Tensor, spans: Sequence[Span]) -> Tensor:
        """Attend with keys and queries content + position, values content; all (N, Q, C)."""
        C = content.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query_key = F.linear(content + position, weight[: 2 * C], bias[: 2 * C])
        query, key = (split_heads(x, self.num_heads) for x in query_key.chunk(2, dim=-1))
        value = F.linear(content, weight[2 * C :], bias[2 * C :])
        value = split_heads(value, self.num_heads)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(join_heads(attend_in_spans(query, key, value, spans, dropout)))


def in_cache(function: Callable[..., Tensor], *tokens: Tensor) -> Tensor:
    """Apply a function of single tokens, part by part on a CPU, which changes nothing but the time.

    Args:
        function: from tensors (tokens, C) to one of the same shape.
        tokens: tensors (..., C) of one shape.

    Returns:
        (..., C).
    """
    first = tokens[0]
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # the loop would be, too
    if first.device.type != "cpu" or recorded or first[..., 0].numel() <= TOKENS_IN_CACHE:
        return function(*tokens)
    parts = zip(*(tensor.flatten(0, -2).split(TOKENS_IN_CACHE) for tensor in tokens))
    return torch.cat([function(*part) for part in parts]).view(first.shape)


class FeedForward(nn.Sequential):
    """Linear layer, activation, dropout, linear layer.

    Args:
        embed_dim: C.
        hidden_dim: width between the two layers.
        activation: "relu", or "prelu", whose one slope is learned.
        dropout: of the activations, in training.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        hidden_dim: int = 2048,
        activation: Literal["relu", "prelu"] = "relu",
        dropout: float = 0.0,
    ):
        if activation not in ("relu", "prelu"):
            raise ValueError(f'activation must be "relu" or "prelu", got {activation!r}')
        first, last = nn.Linear(embed_dim, hidden_dim), nn.Linear(hidden_dim, embed_dim)
        super().__init__(first, nn.ReLU(inplace=True) if activation == "relu" else nn.PReLU(), last)
        self.dropout = dropout
        for layer in (first, last):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., tokens, C) to (..., tokens, C)."""
        return in_cache(self._transform, x)

    def _transform(self, x: Tensor) -> Tensor:
        hidden = F.dropout(self[1](self[0](x)), self.dropout, self.training)
        return self[2](hidden)
