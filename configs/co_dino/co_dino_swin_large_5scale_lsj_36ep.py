"""Co-DINO, Swin-L, large-scale jittering, 36 epochs (published: 60.7 AP)."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_swin_large_5scale_lsj_12ep import dataloader, model, optimizer, train

model.backbone.drop_path_rate = 0.5
train.output_dir = "output/co_dino_swin_large_5scale_lsj_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
