"""Co-Deformable-DETR, ResNet-50, 12 epochs: ATSS and PAA (K = 2; published: 49.0 AP)."""

from .co_deformable_detr_r50_12ep_k3 import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_deformable_detr_r50_12ep_atss_paa"
