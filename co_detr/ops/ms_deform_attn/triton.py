"""Multi-scale deformable attention by Triton: forward and backward, for both entries.

Nothing is compiled at install time, and nothing tuned at run time: sizes of tiles come from a table
by the channels of a head. Gradients of values are added atomically, in an order that varies, so
that their last bits do.
"""

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import frame_gradients
from .triton_kernels import backward_kernel, forward_kernel

Shapes = Sequence[tuple[int, int]]

PATCH_WIDTH = 8  # cells
# Channels of a head, padded to a power of two: queries of a tile, and warps of a program. About a
# thousand numbers per tile keep all lanes at work, without spilling registers.
TILES = {16: (64, 4), 32: (32, 4), 64: (32, 8), 128: (16, 8)}


def forward(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Same contract as `co_detr.ops.ms_deform_attn.ms_deform_attn`, but not differentiable."""
    return _forward(value, spatial_shapes, sampling_locations, attention_weights)


def forward_from_offsets(
    value: Tensor,
    spatial_shapes: Shapes,
    centers: Tensor,
    offset_scale: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn_from_offsets`, for whole centers and scales (N, Q, levels, 2)."""
    return _forward(value, spatial_shapes, offsets, attention_logits, (centers, offset_scale))


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
    needs_samples: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of value, locations and weights, in their dtypes; None where not needed."""
    samples = sampling_locations, attention_weights
    return _backward(grad_output, value, spatial_shapes, *samples, needs_value, needs_samples)


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
    """Gradients of value, centers, scale, offsets and logits; None where not needed."""
    grad_value, grad_pairs, grad_logits = _backward(
        grad_output,
        value,
        spatial_shapes,
        offsets,
        attention_logits,
        needs_value,
        needs_samples or needs_frame,
        frame=(centers, offset_scale),
        of_locations=needs_frame,
    )
    if not needs_frame or grad_pairs is None:
        return grad_value, None, None, grad_pairs, grad_logits
    grads = frame_gradients(grad_pairs, centers, offset_scale, offsets)
    return grad_value, *grads, grad_logits


def _forward(
    value: Tensor,
    spatial_shapes: Shapes,
    pairs: Tensor,
    scores: Tensor,
    frame: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    N, Q, M = scores.shape[:3]
    output = value.new_empty(N, Q, M * value.shape[3])
    if value.numel() == 0 or scores.numel() == 0:
        return output.zero_()
    value, pairs, scores = value.contiguous(), pairs.contiguous(), scores.contiguous()
    centers, scale = (x.contiguous() for x in frame or (pairs, pairs))
    launch = _Launch(value, spatial_shapes, pairs, scores, frame is not None)
    launch(forward_kernel, output, value, launch.levels, pairs, scores, centers, scale)
    return output


def _backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Shapes,
    pairs: Tensor,
    scores: Tensor,
    needs_value: bool,
    needs_samples: bool,
    frame: tuple[Tensor, Tensor] | None = None,
    of_locations: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`of_locations`: the second gradient is that of locations though pairs are offsets."""
    value, pairs, scores = value.contiguous(), pairs.contiguous(), scores.contiguous()
    grad_output = grad_output.contiguous()
    centers, scale = (x.contiguous() for x in frame or (pairs, pairs))
    dtype = torch.promote_types(value.dtype, torch.float32)
    # What nobody needs is not written, so that any tensor will do.
    grad_value = torch.zeros_like(value, dtype=dtype) if needs_value else value
    pairs_dtype = dtype if of_locations else pairs.dtype
    grad_pairs = torch.zeros_like(pairs, dtype=pairs_dtype) if needs_samples else pairs
    grad_scores = torch.zeros_like(scores) if needs_samples else scores
    if value.numel() > 0 and scores.numel() > 0:
        launch = _Launch(value, spatial_shapes, pairs, scores, frame is not None)
        grads = grad_value, grad_pairs, grad_scores
        launch(
            backward_kernel,
            *grads,
            grad_output,
            value,
            launch.levels,
            pairs,
            scores,
            centers,
            scale,
            OF_LOCATIONS=of_locations,
            NEEDS_VALUE=needs_value,
            NEEDS_SAMPLES=needs_samples,
        )
    return (
        grad_value.to(value.dtype) if needs_value else None,
        grad_pairs if needs_samples else None,
        grad_scores if needs_samples else None,
    )


class _Launch:
    """How the kernels run on tensors of such shapes."""

    def __init__(
        self,
        value: Tensor,
        spatial_shapes: Shapes,
        pairs: Tensor,
        scores: Tensor,
        from_offsets: bool,
    ) -> None:
        _, S, M, D = value.shape
        N, Q, _, L, P = scores.shape
        block_d = max(16, triton.next_power_of_2(D))
        tile, self.num_warps = TILES.get(block_d, (16, 8))
        shapes = tuple((h, w) for h, w in spatial_shapes)
        patches = Q == S  # queries of an encoder are cells; any order of queries is right
        rows = level_table(shapes, tile)
        self.levels = _on_device(rows, value.device)
        tiles = num_patches(shapes, tile) if patches else triton.cdiv(Q, tile)
        self.grid = tiles, M, N
        self.sizes = S, Q
        self.device = value.device
        self.constants = {
            "M": M,
            "D": D,
            "L": L,
            "P": P,
            "FROM_OFFSETS": from_offsets,
            "PATCHES": patches,
            "WIDE": needs_64_bits(value.numel(), pairs.numel(), N * Q * M * D),
            "DTYPE": tl.float64 if value.dtype == torch.float64 else tl.float32,
            "TILE": tile,
            "BLOCK_D": block_d,
            "BLOCK_K": triton.next_power_of_2(L * P),
            "PATCH_WIDTH": PATCH_WIDTH,
        }

    def __call__(self, kernel, *tensors: Tensor, **constants: bool) -> None:
        with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
            kernel[self.grid](
                *tensors, *self.sizes, **self.constants, **constants, num_warps=self.num_warps
            )


def needs_64_bits(*numbers_of_elements: int) -> bool:
    """Whether offsets into tensors of these sizes exceed signed 32-bit integers."""
    return max(numbers_of_elements) > 2**31


def num_patches(spatial_shapes: Shapes, tile: int) -> int:
    """Patches of `tile` cells that cover all levels."""
    return sum(_patches(h, w, tile) for h, w in spatial_shapes)


def level_table(
    spatial_shapes: tuple[tuple[int, int], ...], tile: int
) -> tuple[tuple[int, int, int, int], ...]:
    """(height, width, first row, first patch) of each level."""
    table, row, patch = [], 0, 0
    for h, w in spatial_shapes:
        table.append((h, w, row, patch))
        row += h * w
        patch += _patches(h, w, tile)
    return tuple(table)


def _patches(h: int, w: int, tile: int) -> int:
    return triton.cdiv(h, tile // PATCH_WIDTH) * triton.cdiv(w, PATCH_WIDTH)


@functools.lru_cache(maxsize=256)
def _on_device(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """The table as int32, copied without a wait of the host."""
    table = torch.tensor(rows, dtype=torch.int32)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
