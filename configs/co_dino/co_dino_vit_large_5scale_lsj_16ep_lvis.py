"""Co-DINO, ViT-L, from Objects365 to LVIS v1, 16 epochs of batch 64 (published: 67.9 AP).

Start from a checkpoint trained on Objects365: train.init_checkpoint=...
"""

from ..common.data.lvis_lsj import dataloader
from ..common.models.co_dino_vit_large import model
from ..common.models.lvis import use_lvis_classes
from ..common.schedule import LVIS_IMAGES, iterations_per_epoch, step_schedule
from .co_dino_r50_5scale_12ep import optimizer, train

use_lvis_classes(model)
model.canvas = "${dataloader.train.mapper.augmentations.canvas}"
model.mask_padding = False
model.backbone.window_size = 16
model.backbone.global_blocks = [2, 5, 8, 11, 14, 17, 20, 23]
model.backbone.drop_path_rate = 0.3
model.query_sources.denoising.num_queries = 300
model.query_sources.denoising.box_noise = 0.4
model.postprocess.max_detections = 1000

dataloader.train.total_batch_size = 64
dataloader.train.mapper.augmentations.canvas = 1536
dataloader.evaluator.max_dets_per_image = model.postprocess.max_detections

optimizer.lr = 5e-5
optimizer.weight_decay = 0.05

train.init_checkpoint = ""
train.output_dir = "output/co_dino_vit_large_5scale_lsj_16ep_lvis"
train.max_iter = 16 * iterations_per_epoch(64, LVIS_IMAGES)
train.eval_period = train.checkpointer.period = iterations_per_epoch(64, LVIS_IMAGES)
lr_multiplier = step_schedule(
    16,
    drops=[9, 15],
    iterations_per_epoch=iterations_per_epoch(64, LVIS_IMAGES),
    warmup=500,
    warmup_factor=0.01,
)
