"""The digits model with a Faster R-CNN head alone (K = 1)."""

from .co_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.atss
train.output_dir = "output/co_deformable_detr_digits_rcnn"
