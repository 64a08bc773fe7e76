"""Co-Conditional-DETR in miniature on the digits dataset, with one scale of stride 16 (K = 2).

Three times as long as the models of several scales, as in the paper, and at half their rate.
"""

from ..co_deformable_detr.co_deformable_detr_digits import (
    dataloader,
    lr_multiplier,
    optimizer,
    train,
)
from ..common.models.co_conditional_detr_r50_c5 import model
from ..common.models.digits import shrink_single_scale

shrink_single_scale(model)

optimizer.lr = 1e-3
train.max_iter = 1800
train.eval_period = train.checkpointer.period = 450
lr_multiplier.warmup_length = 50 / train.max_iter
train.output_dir = "output/co_conditional_detr_digits"
