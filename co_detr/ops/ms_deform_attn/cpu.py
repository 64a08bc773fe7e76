"""Multi-scale deformable attention for the CPU, as a sparse matrix times the table of value rows.

Every query and head is a *bag*: levels * P samples with four map cells (corners) each, which all
lie in one table of N*S*M rows of D channels. Forward is `embedding_bag` with a weight per corner.
In the backward pass the same weights form a sparse matrix (bags x rows): its transpose times the
output gradient is the gradient of the table, and the dot products of bags and rows at its entries
are the gradients of the corner weights.

No masks are needed at the borders. The weight of a cell for a sample at distance d along an axis is
hat(d) = max(0, 1 - |d|), so we may look at the two cells *inside* the map that are nearest to the
sample: cells which bilinear interpolation would not touch get weight zero by themselves.

Sizes in comments: n queries (of all images, numbered through), K = levels * P samples of a bag.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import frame_gradients, locations_and_weights

# Samples handled at a time: their intermediates stay in the cache, and what calling the operators
# costs stays small beside them. Between 2**15 and 2**19 this matters little.
CHUNK = 2**17

with warnings.catch_warnings():
    # PyTorch says once per process that the layout of `_dot_products` is in beta. Say it to nobody.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0], [], [], (0, 0))


Shapes = Sequence[tuple[int, int]]


def forward(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Gather the corners of all samples of a query and head as one weighted bag of table rows.

    Same contract as `co_detr.ops.ms_deform_attn.ms_deform_attn`, which explains the arguments; not
    differentiable by itself.
    """
    N, Q, M, L, P = attention_weights.shape
    D = value.shape[-1]
    bags = _Bags(value, spatial_shapes, sampling_locations, attention_weights)
    if bags.is_empty:
        return value.new_zeros(N, Q, M * D)
    output = bags.table.new_empty(N * Q * M, D)
    for span in bags.spans():
        corners = bags.corners(span)
        output[bags.of(span)] = F.embedding_bag(
            corners.rows, bags.table, per_sample_weights=corners.weights, mode="sum"
        )
    return output.view(N, Q, M * D).to(value.dtype)


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
    needs_samples: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of value, locations and weights, given that of the output, each in its own dtype.

    The first is None unless `needs_value`, the others are None unless `needs_samples`.
    """
    inputs = value, sampling_locations, attention_weights
    bags = _Bags(value, spatial_shapes, sampling_locations, attention_weights)
    grads: Sequence[Tensor | None]
    if bags.is_empty:
        grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs]
    else:
        # The corners are computed anew: a tenth of the backward pass, most of the memory.
        grads = _gradients(grad_output, bags, needs_value, needs_samples)
    grad_value, grad_locations, grad_weights = (
        grad.view(x.shape).to(x.dtype) if needs and grad is not None else None
        for grad, x, needs in zip(grads, inputs, (needs_value, needs_samples, needs_samples))
    )
    return grad_value, grad_locations, grad_weights


def forward_from_offsets(
    value: Tensor,
    spatial_shapes: Shapes,
    centers: Tensor,
    offset_scale: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn_from_offsets`, for whole centers and scales (N, Q, levels, 2)."""
    samples = locations_and_weights(centers, offset_scale, offsets, attention_logits)
    return forward(value, spatial_shapes, *samples)


def backward_from_offsets(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Shapes,
    centers: Tensor,
    offset_scale: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
    needs_value: bool,
    needs_frame: bool,
    needs_samples: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of value, centers, scale, offsets and logits.

    The first is None unless `needs_value`, the others are if neither they nor their partner is
    needed: centers and scale (`needs_frame`), offsets and logits (`needs_samples`).
    """
    locations, weights = locations_and_weights(centers, offset_scale, offsets, attention_logits)
    needs = needs_value, needs_samples or needs_frame
    grads = backward(grad_output, value, spatial_shapes, locations, weights, *needs)
    grad_value, grad_locations, grad_weights = grads
    if grad_locations is None or grad_weights is None:
        return grad_value, None, None, None, None
    mean = (grad_weights * weights).flatten(-2).sum(-1)[..., None, None]
    grad_logits = ((grad_weights - mean) * weights).to(attention_logits.dtype)
    return (
        grad_value,
        *frame_gradients(grad_locations, centers, offset_scale, offsets),
        grad_logits,
    )


def _gradients(
    grad_output: Tensor, bags: "_Bags", needs_value: bool, needs_samples: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    table = bags.table
    grad_bags = grad_output.detach().to(table.dtype).reshape(-1, table.shape[1]).contiguous()
    rows = torch.empty(len(grad_bags), bags.size, dtype=bags.layout.index_dtype)
    weights = table.new_empty(rows.shape)
    grad_locations = torch.empty_like(bags.locations, memory_format=torch.contiguous_format)
    grad_attention = torch.empty_like(bags.attention, memory_format=torch.contiguous_format)
    for span in bags.spans():
        of = bags.of(span)
        corners = bags.corners(span, out=(rows[of], weights[of]))
        if needs_samples:
            grad_corners = _dot_products(corners, grad_bags[of], table)
            bags.backward(span, corners, grad_corners, grad_locations[span], grad_attention[span])
    grad_value = None
    if needs_value:
        grad_value = _transposed_product(rows, weights, grad_bags, len(table))
    return grad_value, grad_locations, grad_attention


@dataclass(frozen=True, eq=False)
class _Layout:
    """What the shapes of the maps say about every sample of a query: M*K columns."""

    map_size: Tensor  # (x/y, 1, M*K) cells
    last_low: Tensor  # (x/y, 1, M*K) the last cell that has a neighbour on its high side
    cell_offset: Tensor  # (low/high, x/y, 1, M*K) from the low cell to this one; inf: there is none
    first_row: Tensor  # (M*K,) table row of the map's first cell, in the first image
    row_offset: Tensor  # (4, K) from the row of corner (low, low) to those of (y, x)

    @property
    def index_dtype(self) -> torch.dtype:
        return self.first_row.dtype


@functools.lru_cache(maxsize=256)  # a tenth of the time of a small call otherwise
def _layout(
    spatial_shapes: tuple[tuple[int, int], ...],
    M: int,
    P: int,
    dtype: torch.dtype,
    index_dtype: torch.dtype,
) -> _Layout:
    def per_sample(of_level: Callable[[int, int], int]) -> Tensor:
        levels = torch.tensor([of_level(h, w) for h, w in spatial_shapes])
        return levels.repeat_interleave(P).repeat(M)

    size = torch.stack((per_sample(lambda h, w: w), per_sample(lambda h, w: h)))[:, None]
    second = torch.where(size > 1, 1.0, torch.inf)
    area = torch.tensor([h * w for h, w in spatial_shapes])
    start = (area.cumsum(0) - area).repeat_interleave(P)
    step_x = torch.tensor([M if w > 1 else 0 for _, w in spatial_shapes])
    step_y = torch.tensor([M * w if h > 1 else 0 for h, w in spatial_shapes])
    steps = torch.stack((torch.zeros_like(step_x), step_x, step_y, step_x + step_y))
    return _Layout(
        map_size=size.to(dtype),
        last_low=(size - 2).clamp(min=0).to(dtype),
        cell_offset=torch.stack((torch.zeros_like(second), second)).to(dtype),
        first_row=(start * M + torch.arange(M)[:, None]).flatten().to(index_dtype),
        row_offset=steps.repeat_interleave(P, dim=1).to(index_dtype),
    )


@dataclass(frozen=True, eq=False)
class _Corners:
    """The corners of the samples of n queries, as bags and apart for each axis."""

    rows: Tensor  # (n*M, 4*K) rows of the table, ordered (y low/high, x low/high, sample)
    weights: Tensor  # (n*M, 4*K)
    distance: Tensor  # (low/high, x/y, n, M*K) from cell to sample, in cells; -inf: no such cell
    hat: Tensor  # (low/high, x/y, n, M*K) interpolation weights


class _Bags:
    """Turns sampling locations and attention weights into table rows and corner weights.

    Queries of all images are numbered through, and handled as spans (slices) of them.
    """

    def __init__(
        self,
        value: Tensor,
        spatial_shapes: Shapes,
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> None:
        dtype = torch.promote_types(value.dtype, torch.float32)
        N, S, M, D = value.shape
        _, Q, _, L, P = attention_weights.shape
        self.heads, self.samples = M, L * P
        self.size = 4 * L * P
        self.num_queries = N * Q
        self.num_rows = N * S * M
        index_dtype = torch.int32 if self.num_rows < 2**31 else torch.int64
        self.is_empty = value.numel() == 0 or attention_weights.numel() == 0
        if self.is_empty:
            return
        self.layout = _layout(tuple(spatial_shapes), M, P, dtype, index_dtype)
        self.first_row = torch.arange(0, self.num_rows, S * M, dtype=index_dtype)
        self.first_row = self.first_row.repeat_interleave(Q)[:, None]  # (N*Q, 1) of the image
        self.table = value.detach().to(dtype).reshape(-1, D)
        self.locations = sampling_locations.detach().to(dtype).reshape(N * Q, M * L * P, 2)
        self.attention = attention_weights.detach().to(dtype).reshape(N * Q, M * L * P)

    def spans(self) -> Iterator[slice]:
        step = max(1, CHUNK // (self.heads * self.samples))
        return (slice(i, min(i + step, self.num_queries)) for i in range(0, self.num_queries, step))

    def of(self, span: slice) -> slice:
        """The bags of a span of queries."""
        return slice(span.start * self.heads, span.stop * self.heads)

    def corners(self, span: slice, out: tuple[Tensor, Tensor] | None = None) -> _Corners:
        """Corners of a span of queries; `out` receives their rows and weights."""
        layout, M, K = self.layout, self.heads, self.samples
        locations = self.locations[span]
        n = len(locations)
        if out is None:
            rows = torch.empty(n * M, 4 * K, dtype=layout.index_dtype)
            out = rows, locations.new_empty(rows.shape)
        rows, weights = out

        position = locations.new_empty(2, n, M * K)  # x and y apart: contiguous from here on
        torch.mul(locations.permute(2, 0, 1), layout.map_size, out=position).sub_(0.5)
        low = position.floor().clamp_(min=0).clamp_(max=layout.last_low)
        distance = position.sub_(low) - layout.cell_offset
        hat = _hat(distance)

        cell = torch.addcmul(low[0], low[1], layout.map_size[0]).to(layout.index_dtype)
        row = cell.mul_(M).add_(layout.first_row).add_(self.first_row[span])
        torch.add(row.view(n * M, 1, K), layout.row_offset, out=rows.view(n * M, 4, K))
        # A location that is not a number has an arbitrary row (and a weight that is not a number).
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
        """Fill the gradients of a span of queries, given those of its corner weights."""
        hat, M, K = corners.hat, self.heads, self.samples
        n = hat.shape[2]
        x, y = hat.view(2, 2, n * M, K).unbind(1)
        grad = grad_corners.view(n * M, 2, 2, K).permute(1, 2, 0, 3)  # (y, x, n*M, K)

        grad_hat = hat.new_empty(2, 2, n * M, K)  # the factor of the attention weight follows below
        torch.mul(grad[0], y[0], out=grad_hat[:, 0]).addcmul_(grad[1], y[1])
        torch.mul(grad[:, 0], x[0], out=grad_hat[:, 1]).addcmul_(grad[:, 1], x[1])
        grad_hat = grad_hat.view_as(hat)
        torch.mul(grad_hat[0, 1], hat[0, 1], out=grad_attention)
        grad_attention.addcmul_(grad_hat[1, 1], hat[1, 1])

        grad_hat.mul_(_hat_slope(corners.distance))
        grad_position = grad_hat[0].add_(grad_hat[1]).mul_(self.attention[span])
        torch.mul(grad_position, self.layout.map_size, out=grad_locations.permute(2, 0, 1))


def _hat(distance: Tensor) -> Tensor:
    return distance.abs().neg_().add_(1).clamp_(min=0)


def _hat_slope(distance: Tensor) -> Tensor:
    """Derivative of `_hat`; at a kink the one from the right, as `grid_sample` has it."""
    left = distance.floor()
    hat_left = _hat(left)
    return _hat(left.add_(1)).sub_(hat_left)


def _dot_products(corners: _Corners, grad_bags: Tensor, table: Tensor) -> Tensor:
    """Dot product of each bag's output gradient with each of the bag's rows: (bags, 4*K)."""
    rows = corners.rows
    if rows.shape[1] >= len(table):  # more entries than cells, which the sparse product cannot hold
        with torch.autocast("cpu", enabled=False):
            return (grad_bags @ table.t()).gather(1, rows.long())
    entries = torch.sparse_csr_tensor(
        torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=rows.dtype),
        rows.flatten(),
        corners.weights.flatten().clone(),  # overwritten by the result
        (len(rows), len(table)),
        check_invariants=False,  # rows are not sorted and may repeat in a bag, which is fine here
    )
    torch.sparse.sampled_addmm(entries, grad_bags, table.t(), beta=0.0, out=entries)
    return entries.values()


def _transposed_product(rows: Tensor, weights: Tensor, grad_bags: Tensor, num_rows: int) -> Tensor:
    """Sum over bags of weight * output gradient, for each row of the table: (num_rows, D).

    scipy's product takes a tenth of the time of `embedding_bag`'s own backward, of `index_add_` and
    of PyTorch's sparse product.
    """
    index_dtype = torch.int32 if rows.numel() < 2**31 else torch.int64
    starts = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=index_dtype)
    matrix = scipy.sparse.csc_matrix(
        (weights.flatten().numpy(), rows.flatten().numpy(), starts.numpy()),
        shape=(num_rows, len(grad_bags)),
    )
    return torch.from_numpy(matrix @ grad_bags.numpy())
