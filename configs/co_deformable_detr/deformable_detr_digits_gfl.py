"""The digits model of Deformable-DETR with a GFL head alone (K = 1)."""

from co_detr.modeling.aux_heads.gfl import GFLHead

from ..common.models.heads import dense_head
from .deformable_detr_digits_k2 import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.gfl = dense_head(model, GFLHead)
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/deformable_detr_digits_gfl"
