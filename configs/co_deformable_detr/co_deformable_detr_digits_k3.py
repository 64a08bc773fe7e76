"""The digits model with three auxiliary heads: Faster R-CNN, ATSS and PAA (K = 3)."""

from co_detr.modeling.aux_heads.paa import PAAHead

from ..common.models.heads import dense_head
from .co_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.paa = dense_head(model, PAAHead)
train.output_dir = "output/co_deformable_detr_digits_k3"
