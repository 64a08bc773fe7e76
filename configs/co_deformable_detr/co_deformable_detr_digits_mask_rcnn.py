"""The digits model with a Mask R-CNN head alone (K = 1)."""

from detectron2.config import LazyCall as L

from co_detr.modeling.aux_heads.mask import MaskHead

from ..common.data.masks import use_masks
from .co_deformable_detr_digits_rcnn import dataloader, lr_multiplier, model, optimizer, train

use_masks(dataloader)
model.aux_heads.rcnn.mask_head = L(MaskHead)(
    in_channels="${....neck.out_channels}",
    num_classes="${....num_classes}",
    strides="${..box_head.strides}",
    finest_scale="${..box_head.finest_scale}",
    conv_channels=64,
    num_convs=2,
)
train.output_dir = "output/co_deformable_detr_digits_mask_rcnn"
