"""Deformable-DETR, ResNet-50, 36 epochs, a GFL head alone (K = 1; published: 46.5 AP)."""

from co_detr.modeling.aux_heads.gfl import GFLHead

from ..common.models.heads import dense_head
from ..common.models.plain import make_plain
from .co_deformable_detr_r50_36ep import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
model.aux_heads.gfl = dense_head(model, GFLHead)
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/deformable_detr_r50_36ep_gfl"
