"""Co-DINO, ResNet-50, large-scale jittering, 36 epochs (published: 54.8 AP)."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_r50_5scale_lsj_12ep import dataloader, model, optimizer, train

train.output_dir = "output/co_dino_r50_5scale_lsj_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
