"""The digits model of Co-H-Deformable-DETR, the ATSS head alone (K = 1)."""

from .co_h_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_h_deformable_detr_digits_k1"
