"""Co-Deformable-DETR, Swin-L, 12 epochs, the ATSS head alone (K = 1; published: 56.4 AP)."""

from .co_deformable_detr_swin_large_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_deformable_detr_swin_large_12ep_k1"
