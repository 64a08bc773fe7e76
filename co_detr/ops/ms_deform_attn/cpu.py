"""Multi-scale deformable attention for the CPU, as weighted bags of table rows."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_cpu(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Gather the four corners of all samples of a query and head as one `embedding_bag`.

    Same contract as `co_detr.ops.ms_deform_attn.ms_deform_attn`, which says what the arguments mean.
    """
    N, S, M, D = value.shape
    Q = sampling_locations.shape[1]
    rows, weights = _corners(value.shape, spatial_shapes, sampling_locations)
    weights = weights * attention_weights[..., None, None]
    output = F.embedding_bag(
        rows.view(N * Q * M, -1),
        value.reshape(N * S * M, D),
        per_sample_weights=weights.reshape(N * Q * M, -1),
        mode="sum",
    )
    return output.view(N, Q, M * D)


def _corners(
    value_shape: torch.Size,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
) -> tuple[Tensor, Tensor]:
    """Table rows and bilinear weights of the corners, both (N, Q, M, levels, P, 2, 2) with y before x."""
    N, S, M, _ = value_shape
    areas = [h * w for h, w in spatial_shapes]
    starts = [sum(areas[:level]) for level in range(len(areas))]
    size = sampling_locations.new_tensor([(w, h) for h, w in spatial_shapes])[:, None]  # (L, 1, 2)
    width = torch.tensor([w for _, w in spatial_shapes])[:, None]
    first_row = torch.arange(N)[:, None, None] * S + torch.tensor(starts)  # (N, 1, L)
    first_row = first_row[:, :, None] * M + torch.arange(M)[:, None]  # (N, 1, M, L)

    position = sampling_locations * size - 0.5
    low = position.detach().floor()
    fraction = position - low
    cell = torch.stack((low, low + 1), dim=-1)  # (N, Q, M, L, P, xy, low/high)
    inside = (cell >= 0) & (cell < size[..., None])
    weight = torch.stack((1 - fraction, fraction), dim=-1).masked_fill(~inside, 0)
    cell = cell.masked_fill(~inside, 0).long()
    x, y = cell.unbind(-2)
    rows = (y * width[..., None])[..., :, None] + x[..., None, :]
    rows = rows * M + first_row[..., None, None, None]
    weight_x, weight_y = weight.unbind(-2)
    return rows, weight_y[..., :, None] * weight_x[..., None, :]
