"""Deformable-DETR++, Swin-T, 12 epochs: no auxiliary head (K = 0)."""

from .co_deformable_detr_swin_tiny_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_deformable_detr_swin_tiny_12ep_k0"
