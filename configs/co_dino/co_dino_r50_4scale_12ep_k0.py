"""DINO, ResNet-50, four scales, 12 epochs: no auxiliary head (K = 0)."""

from .co_dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_dino_r50_4scale_12ep_k0"
