"""Co-DINO, Swin-L, DETR augmentation, 24 epochs (published: 59.8 AP)."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_swin_large_5scale_12ep import dataloader, model, optimizer, train

model.backbone.drop_path_rate = 0.5
train.output_dir = "output/co_dino_swin_large_5scale_24ep"
train.max_iter = 24 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(24, drops=[20])
