"""The sampling core of multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3).

Two entries: `ms_deform_attn` takes sampling locations and attention weights as in the equation, and
`ms_deform_attn_from_offsets` what a layer has before it makes these. `choice` picks the
implementation. The fast ones are operators of PyTorch (`operator`), whole to `torch.compile`.
While a graph is recorded for elsewhere, by `torch.export`, `torch.onnx` or `torch.jit.trace`, the
functions lower to the `reference` instead: other runtimes have its operators, but none of these.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import operator
from .choice import REFERENCE, TRITON, implementation_for
from .reference import locations_and_weights, ms_deform_attn_reference

__all__ = [
    "is_exporting",
    "locations_and_weights",
    "ms_deform_attn",
    "ms_deform_attn_from_offsets",
    "ms_deform_attn_reference",
]

Shapes = Sequence[tuple[int, int]]
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6


def ms_deform_attn(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Sum of bilinear samples of the value maps, weighted per query, head, level and point.

    Cell (i, j) of an h x w map has its centre at ((j + 0.5) / w, (i + 0.5) / h). A corner of a
    bilinear sample that lies outside its map contributes zero. Weights are used as they are (the
    caller applies the softmax). The sum is computed in float32, or in float64 if `value` is; the
    result has the dtype of `value`. Differentiable once, in all three tensors.

    Args:
        value: (N, S, M, D) projected tokens of all levels, fine to coarse, row-major in each level;
            D channels per head. Tokens in the padding must already be zero.
        spatial_shapes: the (h, w) of each of the levels in cells; their areas add up to S.
        sampling_locations: (N, Q, M, levels, P, 2) as (x, y), in [0, 1] of the padded map; may lie
            outside.
        attention_weights: (N, Q, M, levels, P).

    Returns:
        (N, Q, M * D), heads concatenated.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if not torch.jit.is_tracing():  # sizes are tensors there, and a comparison would be recorded
        _check_value(value, spatial_shapes)
        _check_samples(value, spatial_shapes, "attention_weights", attention_weights)
        _check_pairs(attention_weights, "attention_weights", sampling_locations)
    return _sample(value, spatial_shapes, sampling_locations, attention_weights)


def ms_deform_attn_from_offsets(
    value: Tensor,
    spatial_shapes: Shapes,
    centers: Tensor,
    offset_scale: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` at locations = centers + offsets * scale, with weights = softmax(logits).

    The softmax of a query and head goes over all levels and points, and is computed at least in
    float32. Differentiable once, in all tensors.

    Args:
        value: (N, S, M, D), as in `ms_deform_attn`.
        spatial_shapes: the (h, w) of each level.
        centers: broadcastable to (N, Q, levels, 2), (x, y) as a fraction of each padded level.
        offset_scale: broadcastable to the same: the length of a unit offset along x and y.
        offsets: (N, Q, M, levels, P, 2).
        attention_logits: (N, Q, M, levels, P).

    Returns:
        (N, Q, M * D), heads concatenated.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if not torch.jit.is_tracing():
        _check_value(value, spatial_shapes)
        _check_samples(value, spatial_shapes, "attention_logits", attention_logits)
        _check_pairs(attention_logits, "attention_logits", offsets, "offsets")
        _check_frame(attention_logits, "centers", centers)
        _check_frame(attention_logits, "offset_scale", offset_scale)
    if _implementation(value) == TRITON:  # one kernel
        N, Q, _, L, _ = attention_logits.shape
        frame = centers.expand(N, Q, L, 2), offset_scale.expand(N, Q, L, 2)
        return operator.sample_from_offsets(
            value, _flat(spatial_shapes), *frame, offsets, attention_logits
        )
    # The operator would only compute locations and weights twice, for the backward pass again.
    samples = locations_and_weights(centers, offset_scale, offsets, attention_logits)
    return _sample(value, spatial_shapes, *samples)


def _sample(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    if _implementation(value) == REFERENCE:
        return ms_deform_attn_reference(value, spatial_shapes, locations, weights)
    return operator.sample(value, _flat(spatial_shapes), locations, weights)


def _implementation(value: Tensor) -> str:
    if torch.jit.is_tracing() or is_exporting():
        return REFERENCE
    return implementation_for(value.device.type)


def _flat(spatial_shapes: Shapes) -> list[int]:
    return [size for shape in spatial_shapes for size in shape]


def _check_value(value: Tensor, spatial_shapes: Shapes) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must be (N, S, M, D), got {tuple(value.shape)}.")
    tokens = sum(h * w for h, w in spatial_shapes)
    if tokens != value.shape[1]:
        raise ValueError(
            f"spatial_shapes {list(spatial_shapes)} describe {tokens} tokens, but value has "
            f"{value.shape[1]}; pass the (h, w) of every level that was flattened into value."
        )


def _check_samples(value: Tensor, spatial_shapes: Shapes, name: str, samples: Tensor) -> None:
    N, _, M, _ = value.shape
    shape = tuple(samples.shape)
    if len(shape) != 5 or (shape[0], shape[2], shape[3]) != (N, M, len(spatial_shapes)):
        raise ValueError(
            f"{name} must be (N, Q, M, levels, P) with N={N}, M={M}, "
            f"levels={len(spatial_shapes)}, got {shape}."
        )


def _check_pairs(
    samples: Tensor, samples_name: str, pairs: Tensor, name: str = "sampling_locations"
) -> None:
    wanted = (*samples.shape, 2)
    if tuple(pairs.shape) != wanted:
        raise ValueError(
            f"{name} must be {samples_name}' shape plus (x, y), {tuple(wanted)}, "
            f"got {tuple(pairs.shape)}."
        )


def _check_frame(samples: Tensor, name: str, frame: Tensor) -> None:
    N, Q, _, L, _ = samples.shape
    wanted, shape = (N, Q, L, 2), tuple(frame.shape)
    if len(shape) != 4 or any(have not in (1, want) for have, want in zip(shape, wanted)):
        raise ValueError(
            f"{name} must be broadcastable to (N, Q, levels, 2) = {wanted}, got {shape}."
        )
