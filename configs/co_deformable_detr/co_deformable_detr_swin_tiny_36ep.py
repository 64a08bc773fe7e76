"""Co-Deformable-DETR, Swin-T, 36 epochs, K = 2."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_deformable_detr_swin_tiny_12ep import dataloader, model, optimizer, train

model.backbone.drop_path_rate = 0.3
train.output_dir = "output/co_deformable_detr_swin_tiny_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
