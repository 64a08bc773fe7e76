"""Co-H-Deformable-DETR, ResNet-50, 12 epochs, the ATSS head alone (K = 1; published: 49.2 AP)."""

from .co_h_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_h_deformable_detr_r50_12ep_k1"
