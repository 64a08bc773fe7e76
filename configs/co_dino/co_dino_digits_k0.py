"""The digits model of DINO: no auxiliary heads (K = 0)."""

from .co_dino_digits import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_dino_digits_k0"
