"""Deformable-DETR, ResNet-50, 36 epochs, an ATSS head alone (K = 1; published: 46.8 AP)."""

from ..common.models.plain import make_plain
from .co_deformable_detr_r50_36ep import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
del model.aux_heads.rcnn
train.output_dir = "output/deformable_detr_r50_36ep_atss"
