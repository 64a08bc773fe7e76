"""H-Deformable-DETR, ResNet-50, 12 epochs: no auxiliary head (K = 0; published: 48.4 AP)."""

from .co_h_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
train.output_dir = "output/h_deformable_detr_r50_12ep"
