"""Layers and tensor functions of torch with small additions."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .batch_norm import FrozenBatchNorm2d

__all__ = ["Conv2d", "cat", "nonzero_tuple"]


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` followed by a norm and an activation.

    Args:
        *args: as for `torch.nn.Conv2d`.
        norm: module applied to the result; registered as `norm`.
        activation: function applied last.
        **kwargs: as for `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        *args,
        norm: nn.Module | None = None,
        activation: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._folds_norm(x):
            x = self._conv_forward(x, *self._folded_parameters())
        else:
            x = super().forward(x)
            if self.norm is not None:
                x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def _folded_parameters(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the one convolution that this one and its frozen norm are."""
        scale, shift = self.norm.affine_map()
        if self.bias is not None:
            shift = shift + self.bias * scale
        dtype = self.weight.dtype
        return (self.weight * scale.view(-1, 1, 1, 1)).to(dtype), shift.to(dtype)

    def _folds_norm(self, x: torch.Tensor) -> bool:
        """Whether to scale the weights by a frozen norm rather than the map that they make.

        On a CPU that saves a pass through the memory where the map is larger than the weights.
        With gradients it saves nothing: those of the weights would have to be scaled, too.
        """
        if not isinstance(self.norm, FrozenBatchNorm2d) or x.device.type != "cpu":
            return False
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        cells = x.shape[0] * x.shape[2] * x.shape[3] // (self.stride[0] * self.stride[1])
        return cells > self.weight[0].numel()


def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """`torch.cat` that returns a single tensor as it is, without a copy."""
    assert isinstance(tensors, (list, tuple)), f"expected a list of tensors, got {type(tensors)}"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return one vector of indices per dimension, usable as index of `x`; a scalar has one."""
    return torch.atleast_1d(x).nonzero(as_tuple=True)
