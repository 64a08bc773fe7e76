"""ATSS on the encoder of Deformable-DETR, ResNet-50, 36 epochs, no decoder: that of figure 2."""

from ..co_deformable_detr.co_deformable_detr_r50_36ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.models.encoder_heads import keep_encoder_heads

keep_encoder_heads(model, "atss")
train.output_dir = "output/encoder_atss_r50_36ep"
