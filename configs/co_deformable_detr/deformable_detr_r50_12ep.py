"""Deformable-DETR, ResNet-50, 12 epochs: learned queries, no refinement (published: 37.1 AP)."""

from ..common.models.plain import make_plain
from .co_deformable_detr_r50_12ep_k0 import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
train.output_dir = "output/deformable_detr_r50_12ep"
