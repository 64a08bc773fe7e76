"""Co-DAB-DETR in miniature on the digits dataset, with one scale of stride 16 (K = 2)."""

from ..co_deformable_detr.co_deformable_detr_digits import (
    dataloader,
    lr_multiplier,
    optimizer,
    train,
)
from ..common.models.co_dab_detr_r50_c5 import model
from ..common.models.digits import shrink_single_scale

shrink_single_scale(model)
train.output_dir = "output/co_dab_detr_digits"
