"""Co-H-Deformable-DETR, ResNet-50, 12 epochs, K = 2 (published: 49.7 AP)."""

from ..co_deformable_detr.co_deformable_detr_r50_12ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.models.hybrid import make_hybrid

make_hybrid(model)
train.output_dir = "output/co_h_deformable_detr_r50_12ep"
