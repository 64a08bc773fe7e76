"""The sampling core of multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3).

`ms_deform_attn` picks the implementation: `cpu` for eager execution on a CPU, `reference` for other
devices and wherever a graph is recorded or operators are watched (tracing, compiling, export).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from co_detr.ops.eager_cpu import runs_on_cpu
from co_detr.ops.ms_deform_attn.cpu import ms_deform_attn_cpu
from co_detr.ops.ms_deform_attn.reference import ms_deform_attn_reference

__all__ = ["ms_deform_attn", "ms_deform_attn_cpu", "ms_deform_attn_reference"]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
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
        _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    dtype = torch.promote_types(value.dtype, torch.float32)
    implementation = (
        ms_deform_attn_cpu
        if runs_on_cpu(value) and value.numel() > 0 and attention_weights.numel() > 0
        else ms_deform_attn_reference
    )
    output = implementation(
        value.to(dtype), spatial_shapes, sampling_locations.to(dtype), attention_weights.to(dtype)
    )
    return output.to(value.dtype)


def _check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must be (N, S, M, D), got {tuple(value.shape)}.")
    N, S, M, _ = value.shape
    tokens = sum(h * w for h, w in spatial_shapes)
    if tokens != S:
        raise ValueError(
            f"spatial_shapes {list(spatial_shapes)} describe {tokens} tokens, but value has {S}; "
            "pass the (h, w) of every level that was flattened into value."
        )
    shape = tuple(attention_weights.shape)
    if len(shape) != 5 or (shape[0], shape[2], shape[3]) != (N, M, len(spatial_shapes)):
        raise ValueError(
            f"attention_weights must be (N, Q, M, levels, P) with N={N}, M={M}, "
            f"levels={len(spatial_shapes)}, got {shape}."
        )
    if tuple(sampling_locations.shape) != (*shape, 2):
        raise ValueError(
            f"sampling_locations must be attention_weights' shape plus (x, y), {(*shape, 2)}, "
            f"got {tuple(sampling_locations.shape)}."
        )
