"""ATSS on the encoder of Deformable-DETR, ResNet-50, 12 epochs, no decoder (published: 46.8 AP)."""

from ..co_deformable_detr.co_deformable_detr_r50_12ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.models.encoder_heads import keep_encoder_heads

keep_encoder_heads(model, "atss")
train.output_dir = "output/encoder_atss_r50_12ep"
