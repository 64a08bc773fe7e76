"""The digits model with a FCOS head alone (K = 1)."""

from co_detr.modeling.aux_heads.fcos import FCOSHead

from ..common.models.heads import dense_head
from .co_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.fcos = dense_head(model, FCOSHead, max_sizes=[32, 64, 128])
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/co_deformable_detr_digits_fcos"
