"""Co-Deformable-DETR, Swin-S, 36 epochs, K = 2."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_deformable_detr_swin_small_12ep import dataloader, model, optimizer, train

model.backbone.drop_path_rate = 0.4
train.output_dir = "output/co_deformable_detr_swin_small_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
