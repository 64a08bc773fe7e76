"""Co-DINO in miniature on the digits dataset (K = 2)."""

from ..co_deformable_detr.co_deformable_detr_digits import (
    dataloader,
    lr_multiplier,
    optimizer,
    train,
)
from ..common.models.co_dino_r50 import model
from ..common.models.digits import shrink

shrink(model)
model.query_sources.denoising.num_queries = 20
train.output_dir = "output/co_dino_digits"
