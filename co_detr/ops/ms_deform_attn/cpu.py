"""Multi-scale deformable attention for the CPU, as a sparse matrix times the table of value rows.

Every query and head is a *bag*: levels x P samples with four map cells (corners) each, which all lie in
one table of N*S*M rows of D channels. Forward is `embedding_bag` with a weight per corner. In the
backward pass the same weights form a sparse matrix (bags x rows): its transpose times the output
gradient is the gradient of the table, and the dot products of bags and rows at its entries are the
gradients of the weights. Indices and weights are computed anew in the backward pass, which costs a
tenth of it and saves most of the memory.

No masks are needed at the borders. The weight of a cell for a sample at distance d along an axis is
hat(d) = max(0, 1 - |d|), so we may look at the two cells *inside* the map that are nearest to the
sample: cells which bilinear interpolation would not touch get weight zero by themselves.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Samples handled at a time: their intermediates stay in the cache, and what calling the operators
# costs stays small beside them.
CHUNK = 1 << 17


def ms_deform_attn_cpu(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Gather the corners of all samples of a query and head as one weighted bag of table rows.

    Same contract as `co_detr.ops.ms_deform_attn.ms_deform_attn`, which says what the arguments mean;
    all tensors share one dtype, float32 or float64, and none is empty.
    """
    return _MSDeformAttn.apply(value, tuple(spatial_shapes), sampling_locations, attention_weights)


class _MSDeformAttn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        value: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(value, sampling_locations, attention_weights)
        ctx.spatial_shapes = spatial_shapes
        D = value.shape[-1]
        N, Q, M = attention_weights.shape[:3]
        bags = _Bags(value, spatial_shapes, sampling_locations, attention_weights)
        table = value.reshape(-1, D)
        output = value.new_empty(N * Q * M, D)
        for span in bags.chunks():
            corners = bags.corners(span)
            output[bags.of(span)] = F.embedding_bag(
                corners.rows, table, per_sample_weights=corners.weights, mode="sum"
            )
        return output.view(N, Q, M * D)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        value, sampling_locations, attention_weights = ctx.saved_tensors
        needs_value, _, needs_locations, needs_weights = ctx.needs_input_grad
        D = value.shape[-1]
        bags = _Bags(value, ctx.spatial_shapes, sampling_locations, attention_weights)
        table = value.detach().reshape(-1, D)
        grad_bags = grad_output.detach().reshape(-1, D).contiguous()

        rows = torch.empty(len(grad_bags), bags.size, dtype=bags.index_dtype)
        weights = table.new_empty(rows.shape)
        grad_locations = torch.empty_like(sampling_locations, memory_format=torch.contiguous_format)
        grad_attention = torch.empty_like(attention_weights, memory_format=torch.contiguous_format)
        for span in bags.chunks():
            of = bags.of(span)
            corners = bags.corners(span, out=(rows[of], weights[of]))
            if needs_locations or needs_weights:
                grad_corners = _dot_products(corners, grad_bags[of], table)
                bags.backward(span, corners, grad_corners, grad_locations, grad_attention)

        return (
            (
                _transposed_product(rows, weights, grad_bags, len(table)).view(value.shape)
                if needs_value
                else None
            ),
            None,
            grad_locations if needs_locations else None,
            grad_attention if needs_weights else None,
        )


class _Corners(NamedTuple):
    """The corners of n queries. Leading axes: low / high cell of the two (first), axis x / y (second)."""

    rows: Tensor  # (n*M, 4*levels*P) rows of the table; corners (low, low), (low, high), ... as (y, x)
    weights: Tensor  # (n*M, 4*levels*P)
    distance: (
        Tensor  # (2, 2, n, M*levels*P) from the sample to the cell, in cells; inf: no such cell
    )
    hat: Tensor  # (2, 2, n, M*levels*P) interpolation weight along the axis


class _Bags:
    """Turns sampling locations and attention weights into table rows and corner weights.

    Queries of all images are numbered through, and handled as spans (slices) of them.
    """

    def __init__(
        self,
        value: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> None:
        N, S, M, _ = value.shape
        _, Q, _, L, P, _ = sampling_locations.shape
        self.heads, self.points = M, L * P
        self.size = 4 * L * P
        self.num_queries = N * Q
        self.num_rows = N * S * M
        fits = self.num_rows < 2**31
        self.index_dtype = torch.int32 if fits else torch.int64
        self.locations = sampling_locations.detach().reshape(N * Q, M * L * P, 2)
        self.attention = attention_weights.detach().reshape(N * Q, M * L * P)

        def per_sample(per_level: list) -> Tensor:
            return torch.tensor(per_level).view(L, 1).expand(M, L, P).reshape(M * L * P)

        heights, widths = zip(*spatial_shapes)
        size = torch.stack((per_sample(widths), per_sample(heights)))[:, None]  # (xy, 1, M*L*P)
        dtype = value.dtype
        self.map_size = size.to(dtype)
        self.last_low = (size - 2).clamp_(min=0).to(dtype)
        # A map that is one cell wide has no second cell; an infinite distance gives it weight zero.
        second = torch.where(size > 1, 1.0, torch.inf).to(dtype)
        self.cell_offset = torch.stack(
            (torch.zeros_like(second), second)
        )  # (low/high, xy, 1, M*L*P)
        starts = [sum(h * w for h, w in spatial_shapes[:level]) for level in range(L)]
        head = torch.arange(M).repeat_interleave(L * P)
        image = torch.arange(N).repeat_interleave(Q)[:, None]
        self.first_row = ((image * S + per_sample(starts)) * M + head).to(self.index_dtype)
        step_x = torch.tensor([M if w > 1 else 0 for w in widths])
        step_y = torch.tensor([M * w if h > 1 else 0 for h, w in spatial_shapes])
        steps = torch.stack((0 * step_x, step_x, step_y, step_x + step_y))
        self.row_offset = steps.repeat_interleave(P, dim=1).to(self.index_dtype)  # (4, L*P)

    def chunks(self) -> Iterator[slice]:
        step = max(1, CHUNK // (self.heads * self.points))
        return (slice(i, min(i + step, self.num_queries)) for i in range(0, self.num_queries, step))

    def of(self, span: slice) -> slice:
        """The bags of a span of queries."""
        return slice(span.start * self.heads, span.stop * self.heads)

    def corners(self, span: slice, out: tuple[Tensor, Tensor] | None = None) -> _Corners:
        """Corners of a span of queries; `out` receives their rows and weights."""
        locations = self.locations[span]
        n, M, K = len(locations), self.heads, self.points
        if out is None:
            rows = torch.empty(n * M, 4 * K, dtype=self.index_dtype)
            out = rows, locations.new_empty(rows.shape)
        rows, weights = out

        position = locations.new_empty(2, n, M * K)  # x and y apart: contiguous from here on
        torch.mul(locations.permute(2, 0, 1), self.map_size, out=position).sub_(0.5)
        low = position.floor().clamp_(torch.zeros_like(self.last_low), self.last_low)
        distance = position.sub_(low) - self.cell_offset
        hat = _hat(distance)

        cell = torch.addcmul(low[0], low[1], self.map_size[0]).to(self.index_dtype)
        cell = cell.mul_(M).add_(self.first_row[span])
        torch.add(cell.view(n * M, 1, K), self.row_offset, out=rows.view(n * M, 4, K))
        # A location that is not a number has an arbitrary cell (and a weight that is not a number).
        rows.clamp_(0, self.num_rows - 1)

        x = hat[:, 0].view(2, n * M, K)
        y = (hat[:, 1] * self.attention[span]).view(2, n * M, K)
        torch.mul(y[:, None], x, out=weights.view(n * M, 2, 2, K).permute(1, 2, 0, 3))
        return _Corners(rows, weights, distance, hat)

    def backward(
        self,
        span: slice,
        corners: _Corners,
        grad_corners: Tensor,
        grad_locations: Tensor,
        grad_attention: Tensor,
    ) -> None:
        """Write the gradients of a span of queries, given those of the corner weights."""
        hat = corners.hat
        n, M, K = hat.shape[2], self.heads, self.points
        x, y = hat.view(2, 2, n * M, K).unbind(1)
        grad = grad_corners.view(n * M, 2, 2, K).permute(1, 2, 0, 3)  # (y, x, n*M, L*P)

        grad_hat = hat.new_empty(2, 2, n * M, K)  # without the factor of the attention weight
        torch.mul(grad[0], y[0], out=grad_hat[:, 0]).addcmul_(grad[1], y[1])
        torch.mul(grad[:, 0], x[0], out=grad_hat[:, 1]).addcmul_(grad[:, 1], x[1])
        grad_hat = grad_hat.view_as(hat)
        torch.sum(
            grad_hat[:, 1] * hat[:, 1],
            dim=0,
            out=grad_attention.view(self.num_queries, M * K)[span],
        )
        grad_position = grad_hat.mul_(_hat_slope(corners.distance)).sum(0)
        grad_position.mul_(self.attention[span])
        torch.mul(
            grad_position.permute(1, 2, 0),
            self.map_size.permute(1, 2, 0),
            out=grad_locations.view(self.num_queries, M * K, 2)[span],
        )


def _hat(distance: Tensor) -> Tensor:
    return distance.abs().neg_().add_(1).clamp_(min=0)


def _hat_slope(distance: Tensor) -> Tensor:
    """Derivative of `_hat`, from the right at the kinks as `grid_sample` has it."""
    left = distance.floor()
    slope = _hat(left).neg_()
    return slope.add_(_hat(left.add_(1)))


def _dot_products(corners: _Corners, grad_bags: Tensor, table: Tensor) -> Tensor:
    """Dot product of each bag's output gradient with each of its rows: (bags, 4*levels*P)."""
    rows = corners.rows
    starts = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=rows.dtype)
    entries = torch.sparse_csr_tensor(
        starts,
        rows.flatten(),
        corners.weights.flatten().clone(),  # overwritten by the result
        (len(rows), len(table)),
        check_invariants=False,  # rows repeat in a bag and are not sorted, which is fine here
    )
    torch.sparse.sampled_addmm(entries, grad_bags, table.t(), beta=0.0, out=entries)
    return entries.values()


def _transposed_product(rows: Tensor, weights: Tensor, grad_bags: Tensor, num_rows: int) -> Tensor:
    """Sum over bags of weight * output gradient, for each row of the table: (num_rows, D).

    scipy's product took a tenth of the time of `embedding_bag`'s own backward, of `index_add_` and of
    the sparse product of PyTorch.
    """
    starts = torch.arange(0, rows.numel() + 1, rows.shape[1])
    matrix = scipy.sparse.csc_matrix(
        (weights.flatten().numpy(), rows.flatten().numpy(), starts.numpy()),
        shape=(num_rows, len(grad_bags)),
    )
    return torch.from_numpy(matrix @ grad_bags.numpy())
