"""Layers and tensor functions of torch with small additions."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

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
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """`torch.cat` that returns a single tensor as it is, without a copy."""
    assert isinstance(tensors, (list, tuple)), f"expected a list of tensors, got {type(tensors)}"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return one vector of indices per dimension, usable as index of `x`; a scalar has one."""
    return torch.atleast_1d(x).nonzero(as_tuple=True)
