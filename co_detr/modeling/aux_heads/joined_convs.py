"""Convolutions of the same map as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class JoinedConvs:
    """Convolutions that differ in their weights alone, applied to the same maps as one wide one.

    That takes less time than one after the other: few output channels take almost as long as some
    more, and the gradient of a map is computed once, not for each of them and then added up.

    Made anew for each step, since it copies the weights.

    Args:
        convs: of stride 1; all of them have a bias, or none.
    """

    def __init__(self, convs: Sequence[nn.Conv2d]):
        self.widths = [conv.out_channels for conv in convs]
        self.weight = torch.cat([conv.weight for conv in convs])
        biases = [conv.bias for conv in convs if conv.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self.padding = convs[0].padding

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) to what each convolution makes of it."""
        return F.conv2d(x, self.weight, self.bias, padding=self.padding).split(self.widths, dim=1)


class SeparateConvs:
    """The same, one after the other."""

    def __init__(self, convs: Sequence[nn.Conv2d]):
        self.convs = convs

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(conv(x) for conv in self.convs)
