"""Multi-scale deformable attention in plain PyTorch, for any device and for export."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample each level with `grid_sample` and sum the samples with their attention weights.

    Same contract as `co_detr.ops.ms_deform_attn.ms_deform_attn`, which explains the arguments.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    N, _, M, D = value.shape
    Q, L, P = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    levels = value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)
    # grid_sample puts the map's outer edges at -1 and 1
    grids = 2 * sampling_locations.to(dtype) - 1

    samples = []
    for level, (tokens, (h, w)) in enumerate(zip(levels, spatial_shapes)):
        maps = tokens.permute(0, 2, 3, 1).reshape(N * M, D, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(N * M, Q, P, 2)
        samples.append(
            F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        )
    sampled = torch.cat(samples, dim=-1)  # (N*M, D, Q, L*P)
    weights = attention_weights.to(dtype).transpose(1, 2).reshape(N * M, 1, Q, L * P)
    output = (sampled * weights).sum(-1)  # (N*M, D, Q)
    return output.reshape(N, M * D, Q).transpose(1, 2).to(value.dtype)


def locations_and_weights(
    centers: Tensor, offset_scale: Tensor, offsets: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """What `ms_deform_attn` takes, from what `ms_deform_attn_from_offsets` takes.

    Returns:
        sampling locations (N, Q, M, levels, P, 2) and attention weights (N, Q, M, levels, P), which
        add up to 1 over levels and points; at least in float32.
    """
    P = offsets.shape[-2]
    # repeated for the points, so that the innermost loop is long: over levels, points, x and y
    centers, scale = (
        frame[:, :, None, :, None].expand(-1, -1, -1, -1, P, -1).flatten(3)
        for frame in (centers, offset_scale)
    )
    locations = (centers + offsets.flatten(3) * scale).view(offsets.shape)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.flatten(-2).softmax(-1, dtype=dtype).view(logits.shape)
    return locations, weights


def frame_gradients(
    grad_locations: Tensor, centers: Tensor, offset_scale: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of centers, scale and offsets, in their dtypes, given that of the locations."""
    grad_centers = grad_locations.sum((2, 4))
    grad_scale = (grad_locations * offsets).sum((2, 4))
    grad_offsets = grad_locations * offset_scale[:, :, None, :, None]
    return (
        grad_centers.to(centers.dtype),
        grad_scale.to(offset_scale.dtype),
        grad_offsets.to(offsets.dtype),
    )
