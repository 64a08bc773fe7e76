"""Building blocks of networks and operations on boxes and masks."""

from .batch_norm import FrozenBatchNorm2d, get_norm
from .blocks import CNNBlockBase
from .mask_ops import paste_masks_in_image
from .nms import batched_nms, nms
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat, nonzero_tuple

__all__ = [
    "CNNBlockBase",
    "Conv2d",
    "FrozenBatchNorm2d",
    "ShapeSpec",
    "batched_nms",
    "cat",
    "get_norm",
    "nms",
    "nonzero_tuple",
    "paste_masks_in_image",
]
