"""Co-DINO, Swin-L, from Objects365 to LVIS v1, large-scale jittering at 1536, 16 epochs.

Start from a checkpoint trained on Objects365: train.init_checkpoint=...
"""

from ..common.schedule import LVIS_ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_swin_large_5scale_lsj_36ep_lvis import dataloader, model, optimizer, train

model.backbone.drop_path_rate = 0.3
model.query_sources.denoising.num_queries = 500
model.query_sources.denoising.box_noise = 0.4
dataloader.train.mapper.augmentations.canvas = 1536
optimizer.lr = 1e-4
train.output_dir = "output/co_dino_swin_large_5scale_lsj_16ep_o365tolvis"
train.max_iter = 16 * LVIS_ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(16, drops=[8], iterations_per_epoch=LVIS_ITERATIONS_PER_EPOCH)
