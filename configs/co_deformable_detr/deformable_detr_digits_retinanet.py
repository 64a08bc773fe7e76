"""The digits model of Deformable-DETR with a RetinaNet head alone (K = 1)."""

from co_detr.modeling.aux_heads.retinanet import RetinaNetHead

from ..common.models.heads import dense_head
from .deformable_detr_digits_k2 import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.retinanet = dense_head(model, RetinaNetHead, anchor_scale=2.0)
del model.aux_heads.rcnn, model.aux_heads.atss
train.output_dir = "output/deformable_detr_digits_retinanet"
