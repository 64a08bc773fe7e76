"""Co-Deformable-DETR, Swin-B, 12 epochs, the ATSS head alone (K = 1)."""

from .co_deformable_detr_swin_base_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_deformable_detr_swin_base_12ep_k1"
