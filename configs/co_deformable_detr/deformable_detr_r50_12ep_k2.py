"""Co-Deformable-DETR, ResNet-50, 12 epochs: Deformable-DETR with Faster R-CNN and ATSS (K = 2;
published: 42.9 AP)."""

from ..common.models.plain import make_plain
from .co_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
train.output_dir = "output/deformable_detr_r50_12ep_k2"
