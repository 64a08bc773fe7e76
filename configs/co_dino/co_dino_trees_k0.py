"""DINO on tree crowns: no auxiliary heads (K = 0)."""

from .co_dino_trees import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_dino_trees_k0"
