"""Faster R-CNN on the encoder of the digits model, no decoder."""

from ..co_deformable_detr.co_deformable_detr_digits import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.models.encoder_heads import keep_encoder_heads

keep_encoder_heads(model, "rcnn")
train.output_dir = "output/encoder_rcnn_digits"
