"""Co-Deformable-DETR, ResNet-50, 12 epochs, the ATSS head alone (K = 1; published: 48.7 AP)."""

from .co_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_deformable_detr_r50_12ep_k1"
