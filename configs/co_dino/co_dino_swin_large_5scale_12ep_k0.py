"""DINO, Swin-L, five scales, 12 epochs: no auxiliary head (K = 0; published: 58.5 AP)."""

from .co_dino_swin_large_5scale_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_dino_swin_large_5scale_12ep_k0"
