"""What every feature extractor has in common."""

from abc import ABCMeta, abstractmethod

import torch
from torch import nn

from detectron2.layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network from a batch of images to named feature maps.

    A subclass implements `forward` and either sets `_out_features` (names, in order),
    `_out_feature_channels` and `_out_feature_strides` (dicts by name), or overrides `output_shape`.
    """

    @abstractmethod
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, C, H, W) to feature maps (N, C_name, H / stride, W / stride) by name."""

    @property
    def size_divisibility(self) -> int:
        """The number image height and width must be a multiple of; 0 where any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for `ImageList.from_tensors`, such as `{"square_size": 1024}`."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map that `forward` returns."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }
