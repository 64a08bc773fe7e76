"""The digits model of Deformable-DETR with an ATSS head alone (K = 1)."""

from .deformable_detr_digits_k2 import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/deformable_detr_digits_atss"
