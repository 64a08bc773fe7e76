"""Deformable-DETR, ResNet-50, 36 epochs, a Mask R-CNN head alone (K = 1; published: 46.5 AP)."""

from ..common.models.plain import make_plain
from .co_deformable_detr_mask_r50_12ep import dataloader, model
from .co_deformable_detr_r50_36ep import lr_multiplier, optimizer, train

make_plain(model)
del model.aux_heads.atss
train.output_dir = "output/deformable_detr_r50_36ep_mask_rcnn"
