"""The digits model of Deformable-DETR with a PAA head alone (K = 1)."""

from co_detr.modeling.aux_heads.paa import PAAHead

from ..common.models.heads import dense_head
from .deformable_detr_digits_k2 import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.paa = dense_head(model, PAAHead)
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/deformable_detr_digits_paa"
