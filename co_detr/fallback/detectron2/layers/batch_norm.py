"""Normalization layers and the names that configs give them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

__all__ = ["FrozenBatchNorm2d", "LayerNorm", "get_norm"]


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm with fixed statistics and a fixed affine map, all four being buffers.

    Loads the state dict of a `BatchNorm2d`. Unlike torchvision's layer it keeps the dtype of its
    input (mixed precision) and can be made from a model.

    Args:
        num_features: number of channels.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__(num_features, eps)
        self.running_var -= eps  # a new layer is the identity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.requires_grad:  # one kernel; with gradients it would keep more than is needed
            stats = (self.running_mean, self.running_var)
            return F.batch_norm(x, *stats, self.weight, self.bias, training=False, eps=self.eps)
        scale, shift = (factor.to(x.dtype).view(1, -1, 1, 1) for factor in self.affine_map())
        return x * scale + shift

    def affine_map(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer as x * scale + shift, both (num_features,)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every 2d (or synchronized) batch norm in a module by a frozen one.

        Returns:
            nn.Module: `module`, changed in place; a new layer if `module` is itself a batch norm.
        """
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps).to(module.running_mean.device)
            if module.affine:
                frozen.weight = module.weight.detach().clone()
                frozen.bias = module.bias.detach().clone()
            frozen.running_mean = module.running_mean.clone()
            frozen.running_var = module.running_var.clone()
            return frozen
        for name, child in module.named_children():
            converted = cls.convert_frozen_batchnorm(child)
            if converted is not child:
                setattr(module, name, converted)
        return module


class LayerNorm(nn.Module):
    """Layer norm over the channels of a map (N, C, H, W), at each position on its own.

    As upstream's it is no `nn.LayerNorm`: `get_default_optimizer_params` takes it for no norm.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.normalized_shape = (normalized_shape,)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a normalization layer for maps (N, C, H, W).

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), "LN" (over the channels), a callable
            that takes the number of channels, or None or "" for no norm.
        out_channels: number of channels.

    Raises:
        KeyError: for another name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str) and norm not in _NORMS:
        raise KeyError(f"norm={norm!r} is none of {['', *_NORMS]}")
    return (_NORMS[norm] if isinstance(norm, str) else norm)(out_channels)
