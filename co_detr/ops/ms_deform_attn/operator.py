"""Multi-scale deformable attention as operators of PyTorch, `torch.ops.co_detr.ms_deform_attn*`.

Compilers see one node with known shapes, dtypes and gradients, and do not look inside. The
functions of the package check the arguments, and lower to plain PyTorch where such a node is
unwelcome.

`spatial_shapes` are flat here, [h, w, h, w, ...]: operators take no lists of pairs.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import cpu
from .choice import implementation_for
from .reference import locations_and_weights

DEVICES = ("cpu",)


def _kernels(value: Tensor) -> ModuleType:
    """The module with the `forward` and `backward` to run."""
    name = implementation_for(value.device.type)
    kernels = {"cpu": cpu}
    if name not in kernels:
        raise NotImplementedError(
            f"the {name} implementation is no operator; call co_detr.ops.ms_deform_attn"
        )
    return kernels[name]


def _pairs(flat: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(flat[::2], flat[1::2]))


def _or_empty(grad: Tensor | None, like: Tensor) -> Tensor:
    """Operators return no None."""
    return like.new_empty(0) if grad is None else grad


def _grads_like(*inputs: tuple[Tensor, bool]) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape if needed else (0,)) for x, needed in inputs)


# ---------------------------------------------------------------- from locations and weights


@torch.library.custom_op("co_detr::ms_deform_attn", mutates_args=(), device_types=DEVICES)
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


@torch.library.custom_op("co_detr::ms_deform_attn_backward", mutates_args=(), device_types=DEVICES)
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
    grads = _kernels(value).backward(
        grad_output,
        value,
        _pairs(spatial_shapes),
        sampling_locations,
        attention_weights,
        needs_value,
        needs_samples,
    )
    grad_value, grad_locations, grad_weights = grads
    return (
        _or_empty(grad_value, value),
        _or_empty(grad_locations, sampling_locations),
        _or_empty(grad_weights, attention_weights),
    )


@sample.register_fake
def _(value, spatial_shapes, sampling_locations, attention_weights):
    N, Q, M = attention_weights.shape[:3]
    return value.new_empty(N, Q, M * value.shape[3])


@sample_backward.register_fake
def _(grad, value, spatial_shapes, sampling_locations, weights, needs_value, needs_samples):
    return _grads_like(
        (value, needs_value), (sampling_locations, needs_samples), (weights, needs_samples)
    )


def _keep(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.spatial_shapes = inputs[1]
    ctx.save_for_backward(inputs[0], *inputs[2:])


def _sample_gradients(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, *samples = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = sample_backward(
        grad_output, value, ctx.spatial_shapes, *samples, needs[0], any(needs[2:])
    )
    grads = (grads[0], None, *grads[1:])
    return tuple(grad if need else None for grad, need in zip(grads, needs))


sample.register_autograd(_sample_gradients, setup_context=_keep)


# ---------------------------------------------------------------- from offsets and logits


@torch.library.custom_op(
    "co_detr::ms_deform_attn_from_offsets", mutates_args=(), device_types=DEVICES
)
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
    samples = locations_and_weights(centers, offset_scale, offsets, attention_logits)
    return _kernels(value).forward(value, _pairs(spatial_shapes), *samples)


@torch.library.custom_op(
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
    locations, weights = locations_and_weights(centers, offset_scale, offsets, attention_logits)
    grad_value, grad_locations, grad_weights = _kernels(value).backward(
        grad_output,
        value,
        _pairs(spatial_shapes),
        locations,
        weights,
        needs_value,
        needs_samples or needs_frame,
    )
    grad_centers = grad_scale = grad_offsets = grad_logits = None
    if needs_frame:
        grad_centers = grad_locations.sum((2, 4)).to(centers.dtype)
        grad_scale = (grad_locations * offsets).sum((2, 4)).to(offset_scale.dtype)
    if needs_samples:
        grad_offsets = (grad_locations * offset_scale[:, :, None, :, None]).to(offsets.dtype)
        mean = (grad_weights * weights).flatten(-2).sum(-1)[..., None, None]
        grad_logits = ((grad_weights - mean) * weights).to(attention_logits.dtype)
    return (
        _or_empty(grad_value, value),
        _or_empty(grad_centers, centers),
        _or_empty(grad_scale, offset_scale),
        _or_empty(grad_offsets, offsets),
        _or_empty(grad_logits, attention_logits),
    )


@sample_from_offsets.register_fake
def _(value, spatial_shapes, centers, offset_scale, offsets, attention_logits):
    N, Q, M = attention_logits.shape[:3]
    return value.new_empty(N, Q, M * value.shape[3])


@sample_from_offsets_backward.register_fake
def _(
    grad, value, spatial_shapes, centers, scale, offsets, logits, for_value, for_frame, for_samples
):
    return _grads_like(
        (value, for_value),
        (centers, for_frame),
        (scale, for_frame),
        (offsets, for_samples),
        (logits, for_samples),
    )


def _from_offsets_gradients(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, *samples = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = sample_from_offsets_backward(
        grad_output, value, ctx.spatial_shapes, *samples, needs[0], any(needs[2:4]), any(needs[4:])
    )
    grads = (grads[0], None, *grads[1:])
    return tuple(grad if need else None for grad, need in zip(grads, needs))


sample_from_offsets.register_autograd(_from_offsets_gradients, setup_context=_keep)
