"""Deformable-DETR++, Swin-L, 12 epochs: no auxiliary head (K = 0; published: 55.2 AP)."""

from .co_deformable_detr_swin_large_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_deformable_detr_swin_large_12ep_k0"
