"""The digits model of Deformable-DETR with an FCOS head alone (K = 1)."""

from co_detr.modeling.aux_heads.fcos import FCOSHead

from ..common.models.heads import dense_head
from .deformable_detr_digits_k2 import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.fcos = dense_head(model, FCOSHead, max_sizes=[32, 64, 128])
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/deformable_detr_digits_fcos"
