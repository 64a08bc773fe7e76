"""Building blocks of networks and operations on boxes and masks."""

from torchvision.ops import nms

from .blocks import CNNBlockBase
from .mask_ops import paste_masks_in_image
from .nms import batched_nms
from .norm import FrozenBatchNorm2d, LayerNorm, get_norm
from .roi_align import ROIAlign
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat, cross_entropy, move_device_like, nonzero_tuple

__all__ = [
    "CNNBlockBase",
    "Conv2d",
    "FrozenBatchNorm2d",
    "LayerNorm",
    "ROIAlign",
    "ShapeSpec",
    "batched_nms",
    "cat",
    "cross_entropy",
    "get_norm",
    "move_device_like",
    "nms",
    "nonzero_tuple",
    "paste_masks_in_image",
]
