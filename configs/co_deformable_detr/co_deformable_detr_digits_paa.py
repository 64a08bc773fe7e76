"""The digits model with a PAA head alone (K = 1)."""

from co_detr.modeling.aux_heads.paa import PAAHead

from ..common.models.heads import dense_head
from .co_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.paa = dense_head(model, PAAHead)
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/co_deformable_detr_digits_paa"
