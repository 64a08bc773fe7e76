"""Where the decoder's queries look: cross-attention per encoder token.

Letters: N images, S encoder tokens, M attention heads, Q queries, P sampling points.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from co_detr.modeling.transformer.attention import DeformableAttention
from co_detr.modeling.transformer.conditional_attention import ConditionalCrossAttention
from co_detr.ops.ms_deform_attn import ms_deform_attn

Call = tuple[nn.Module, tuple[Any, ...]]
"""A cross-attention, and what it was called with."""


@contextmanager
def recorded_cross_attention(decoder: nn.Module) -> Iterator[list[Call]]:
    """Inside, every call of the cross-attention of a layer of the decoder joins the list."""
    calls: list[Call] = []
    layers = cast(Iterable[nn.Module], decoder.layers)
    attentions = [cast(nn.Module, layer.cross_attention) for layer in layers]
    hooks = [
        attention.register_forward_pre_hook(lambda *call: calls.append(call))
        for attention in attentions
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def attention_to_tokens(calls: Sequence[Call], queries: Tensor) -> Tensor:
    """(N, S): how much some queries attend to each token, summed over them, heads and calls.

    Without the parts of samples outside of the map, the weights of a query and head add up to 1.

    Args:
        calls: as recorded.
        queries: (N, Q) bool, those that count.

    Raises:
        TypeError: it is not known how to read an attention of that class.
    """
    return torch.stack([_to_tokens(module, inputs, queries) for module, inputs in calls]).sum(0)


def _to_tokens(module: nn.Module, inputs: tuple[Any, ...], queries: Tensor) -> Tensor:
    if isinstance(module, DeformableAttention):
        query, centers, offset_scale, *_, spatial_shapes = inputs
        locations, weights = module.samples(query, centers, offset_scale)
        return scattered(spatial_shapes, locations, weights * queries[:, :, None, None, None])
    if isinstance(module, ConditionalCrossAttention):
        *_, memory = inputs
        query, key = module.queries_and_keys(*inputs)
        return dense(query, key, memory.padding, queries)
    raise TypeError(f"no rule to read the attention of a {type(module).__name__}")


def scattered(
    spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """(N, S): weights of samples spread over the cells that they are interpolated from.

    A cell's share is the derivative of what is sampled by the cell's value.

    Args:
        spatial_shapes: (height, width) of each level.
        locations: (N, Q, M, levels, P, 2), (x, y) as a fraction of each padded level.
        weights: (N, Q, M, levels, P).
    """
    N, _, M = weights.shape[:3]
    tokens = sum(height * width for height, width in spatial_shapes)
    with torch.enable_grad():
        value = weights.new_zeros(N, tokens, M, 1).requires_grad_()
        sampled = ms_deform_attn(value, spatial_shapes, locations.detach(), weights.detach())
        (share,) = torch.autograd.grad(sampled.sum(), value)
    return share.sum(dim=(2, 3))


def dense(query: Tensor, key: Tensor, padding: Tensor, queries: Tensor) -> Tensor:
    """(N, S): softmax attention of some queries to each token, summed over them and the heads.

    Args:
        query, key: (N, M, Q, D) and (N, M, S, D).
        padding: (N, S) bool, tokens that are not attended to.
        queries: (N, Q) bool, those that count.
    """
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(padding[:, None, None], float("-inf")).softmax(dim=-1)
    return (weights * queries[:, None, :, None]).sum(dim=(1, 2))
