"""Co-Deformable-DETR, ResNet-50, 36 epochs, K = 2."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_deformable_detr_r50_12ep import dataloader, model, optimizer, train

train.output_dir = "output/co_deformable_detr_r50_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
