"""Co-Deformable-DETR, ResNet-50, 12 epochs: Faster R-CNN, ATSS and PAA (K = 3; published:
49.5 AP)."""

from co_detr.modeling.aux_heads.paa import PAAHead

from ..common.models.heads import dense_head
from .co_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.paa = dense_head(model, PAAHead)
train.output_dir = "output/co_deformable_detr_r50_12ep_k3"
