"""The digits model of H-Deformable-DETR, without auxiliary heads (K = 0)."""

from .co_h_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/co_h_deformable_detr_digits_k0"
