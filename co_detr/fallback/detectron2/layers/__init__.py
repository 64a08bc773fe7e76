"""Building blocks of networks and operations on boxes and masks."""

from .blocks import CNNBlockBase
from .mask_ops import paste_masks_in_image
from .nms import batched_nms
from .norm import FrozenBatchNorm2d, LayerNorm, get_norm
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat, nonzero_tuple

__all__ = [
    "CNNBlockBase",
    "Conv2d",
    "FrozenBatchNorm2d",
    "LayerNorm",
    "ShapeSpec",
    "batched_nms",
    "cat",
    "get_norm",
    "nonzero_tuple",
    "paste_masks_in_image",
]
