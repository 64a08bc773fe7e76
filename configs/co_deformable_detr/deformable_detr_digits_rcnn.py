"""The digits model of Deformable-DETR with a Faster R-CNN head alone (K = 1)."""

from .deformable_detr_digits_k2 import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.atss
train.output_dir = "output/deformable_detr_digits_rcnn"
