"""Deformable-DETR, ResNet-50, 12 epochs, an ATSS head alone (K = 1; published: 42.3 AP)."""

from .deformable_detr_r50_12ep_k2 import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/deformable_detr_r50_12ep_atss"
