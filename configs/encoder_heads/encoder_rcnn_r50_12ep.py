"""Faster R-CNN on the encoder of Deformable-DETR, ResNet-50, 12 epochs, no decoder (published:
45.9 AP)."""

from ..co_deformable_detr.co_deformable_detr_r50_12ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.models.encoder_heads import keep_encoder_heads

keep_encoder_heads(model, "rcnn")
train.output_dir = "output/encoder_rcnn_r50_12ep"
