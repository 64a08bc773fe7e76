"""Co-DINO, Swin-L, from Objects365 to COCO, 16 epochs at large sizes (published: 64.1 AP).

Start from a checkpoint trained on Objects365: train.init_checkpoint=...
"""

from ..common.data.coco_detr_large import dataloader
from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_swin_large_5scale_12ep import model, optimizer, train

model.query_sources.denoising.num_queries = 500
model.query_sources.denoising.box_noise = 0.4
optimizer.lr = 1e-4
train.output_dir = "output/co_dino_swin_large_5scale_16ep_o365tococo"
train.max_iter = 16 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(16, drops=[8])
