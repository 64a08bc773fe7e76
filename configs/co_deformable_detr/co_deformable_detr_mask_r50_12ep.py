"""Co-Deformable-DETR, ResNet-50, 12 epochs, K = 2, where the Faster R-CNN head predicts masks too.

Masks are that head's: `model.eval_branch=rcnn` evaluates its boxes and masks.
"""

from detectron2.config import LazyCall as L

from co_detr.modeling.aux_heads.mask import MaskHead

from ..common.data.coco_detr_masks import dataloader
from .co_deformable_detr_r50_12ep import lr_multiplier, model, optimizer, train

model.aux_heads.rcnn.mask_head = L(MaskHead)(
    in_channels="${....neck.out_channels}",
    num_classes="${....num_classes}",
    strides="${..box_head.strides}",
    finest_scale="${..box_head.finest_scale}",
)
train.output_dir = "output/co_deformable_detr_mask_r50_12ep"
