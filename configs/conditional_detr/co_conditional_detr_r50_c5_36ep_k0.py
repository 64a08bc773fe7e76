"""Conditional-DETR-C5, ResNet-50, 36 epochs: no auxiliary head (K = 0; published: 39.4 AP)."""

from .co_conditional_detr_r50_c5_36ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_conditional_detr_r50_c5_36ep_k0"
