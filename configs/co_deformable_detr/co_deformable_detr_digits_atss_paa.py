"""The digits model with ATSS and PAA as auxiliary heads (K = 2)."""

from .co_deformable_detr_digits_k3 import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_deformable_detr_digits_atss_paa"
