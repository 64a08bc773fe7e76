"""The part of the ViT-L "instance" models that adds masks to detections: `model.instance_mask`."""

from detectron2.config import LazyCall as L

from co_detr.modeling.instance_mask import InstanceMask
from co_detr.modeling.refine_mask import MaskIoUHead, RefineMaskHead

instance_mask = L(InstanceMask)(
    mask_head=L(RefineMaskHead)(
        in_channels="${...neck.out_channels}",
        num_classes="${...num_classes}",
        semantic_stride=4,
    ),
    iou_head=L(MaskIoUHead)(
        in_channels="${...neck.out_channels}",
        num_classes="${...num_classes}",
    ),
    strides=[4, 8, 16, 32, 64],
    finest_scale=56,
)
