"""Multi-scale deformable attention as operators of PyTorch, `torch.ops.co_detr.ms_deform_attn*`.

Compilers see one node with known shapes, dtypes and gradients, and do not look inside. The
functions of the package check the arguments, and lower to plain PyTorch where such a node is
unwelcome.

`spatial_shapes` are flat here, [h, w, h, w, ...]: operators take no lists of pairs.
"""

from types import ModuleType
from typing import Sequence  # noqa: UP035  (PyTorch 2.6 makes schemas of no other)

from torch import Tensor, library
from torch.autograd.function import FunctionCtx

from . import cpu
from .choice import TRITON, implementation_for

DEVICES = ("cpu", "cuda")


def _kernels(value: Tensor) -> ModuleType:
    """The module whose functions run on the device of `value`."""
    name = implementation_for(value.device.type)
    if name == TRITON:
        from . import triton  # imports the package of that name, which not everybody has

        return triton
    if value.device.type != "cpu":
        raise NotImplementedError(
            f"these operators need Triton on {value.device}, where the {name} implementation runs: "
            "call the functions of co_detr.ops.ms_deform_attn, which choose"
        )
    return cpu


def _pairs(flat: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(flat[::2], flat[1::2]))


def _or_empty(
    grads: Sequence[Tensor | None], inputs: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Operators return no None."""
    return tuple(
        grad if need and grad is not None else x.new_empty(0)
        for grad, x, need in zip(grads, inputs, needed)
    )


def _grads_like(inputs: Sequence[Tensor], needed: Sequence[bool]) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape if need else (0,)) for x, need in zip(inputs, needed))


# ---------------------------------------------------------------- from locations and weights


@library.custom_op("co_detr::ms_deform_attn", mutates_args=(), device_types=DEVICES)
def sample(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """`co_detr.ops.ms_deform_attn.ms_deform_attn` without its checks."""
    return _kernels(value).forward(
        value, _pairs(spatial_shapes), sampling_locations, attention_weights
    )


@library.custom_op("co_detr::ms_deform_attn_backward", mutates_args=(), device_types=DEVICES)
def sample_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
    needs_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights; empty where they are not needed."""
    samples, needed = (sampling_locations, attention_weights), (needs_value, needs_samples)
    shapes = _pairs(spatial_shapes)
    grads = _kernels(value).backward(grad_output, value, shapes, *samples, *needed)
    inputs = value, sampling_locations, attention_weights
    of_value, of_locations, of_weights = _or_empty(grads, inputs, (*needed, needs_samples))
    return of_value, of_locations, of_weights


@sample.register_fake
def _(value, spatial_shapes, sampling_locations, attention_weights):
    N, Q, M = attention_weights.shape[:3]
    return value.new_empty(N, Q, M * value.shape[3])


@sample_backward.register_fake
def _(grad, value, spatial_shapes, sampling_locations, weights, needs_value, needs_samples):
    needed = needs_value, needs_samples, needs_samples
    return _grads_like((value, sampling_locations, weights), needed)


class _Context(FunctionCtx):
    """What a forward pass keeps for its backward pass; torch declares none of it."""

    spatial_shapes: Sequence[int]
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


def _keep(ctx: _Context, inputs: tuple, output: Tensor) -> None:
    ctx.spatial_shapes = inputs[1]
    ctx.save_for_backward(inputs[0], *inputs[2:])


def _sample_gradients(ctx: _Context, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, *samples = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = sample_backward(
        grad_output, value, ctx.spatial_shapes, *samples, needs[0], any(needs[2:])
    )
    return tuple(grad if need else None for grad, need in zip((grads[0], None, *grads[1:]), needs))


sample.register_autograd(_sample_gradients, setup_context=_keep)


# ---------------------------------------------------------------- from offsets and logits


@library.custom_op("co_detr::ms_deform_attn_from_offsets", mutates_args=(), device_types=DEVICES)
def sample_from_offsets(
    value: Tensor,
    spatial_shapes: Sequence[int],
    centers: Tensor,
    offset_scale: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`co_detr.ops.ms_deform_attn.ms_deform_attn_from_offsets` without its checks.

    Centers and scale are (N, Q, levels, 2) here.
    """
    return _kernels(value).forward_from_offsets(
        value, _pairs(spatial_shapes), centers, offset_scale, offsets, attention_logits
    )


@library.custom_op(
    "co_detr::ms_deform_attn_from_offsets_backward", mutates_args=(), device_types=DEVICES
)
def sample_from_offsets_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    centers: Tensor,
    offset_scale: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
    needs_value: bool,
    needs_frame: bool,
    needs_samples: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, centers, scale, offsets and logits; empty where they are not needed.

    Those of centers and scale are if `needs_frame`, those of offsets and logits if `needs_samples`.
    """
    samples = centers, offset_scale, offsets, attention_logits
    needed = needs_value, needs_frame, needs_samples
    grads = _kernels(value).backward_from_offsets(
        grad_output, value, _pairs(spatial_shapes), *samples, *needed
    )
    inputs = value, centers, offset_scale, offsets, attention_logits
    of_value, of_centers, of_scale, of_offsets, of_logits = _or_empty(
        grads, inputs, _per_input(*needed)
    )
    return of_value, of_centers, of_scale, of_offsets, of_logits


@sample_from_offsets.register_fake
def _(value, spatial_shapes, centers, offset_scale, offsets, attention_logits):
    N, Q, M = attention_logits.shape[:3]
    return value.new_empty(N, Q, M * value.shape[3])


@sample_from_offsets_backward.register_fake
def _(
    grad, value, spatial_shapes, centers, scale, offsets, logits, for_value, for_frame, for_samples
):
    inputs = value, centers, scale, offsets, logits
    return _grads_like(inputs, _per_input(for_value, for_frame, for_samples))


def _per_input(value: bool, frame: bool, samples: bool) -> tuple[bool, ...]:
    return value, frame, frame, samples, samples


def _from_offsets_gradients(ctx: _Context, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, *samples = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = sample_from_offsets_backward(
        grad_output, value, ctx.spatial_shapes, *samples, needs[0], any(needs[2:4]), any(needs[4:])
    )
    return tuple(grad if need else None for grad, need in zip((grads[0], None, *grads[1:]), needs))


sample_from_offsets.register_autograd(_from_offsets_gradients, setup_context=_keep)
