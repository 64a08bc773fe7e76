"""Co-DAB-DETR in miniature on the digits dataset, with one scale of stride 16 (K = 2)."""

from ..common.models.co_dab_detr_r50_c5 import model
from ..common.models.digits import shrink_single_scale
from ..conditional_detr.co_conditional_detr_digits import (
    dataloader,
    lr_multiplier,
    optimizer,
    train,
)

shrink_single_scale(model)
model.query_sources.matching.initial_size = 0.3  # about that of the digits
train.output_dir = "output/co_dab_detr_digits"
