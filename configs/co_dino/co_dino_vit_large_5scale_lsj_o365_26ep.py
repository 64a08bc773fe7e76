"""Co-DINO, ViT-L, pre-training on Objects365 v2 with large-scale jittering at 1280, batch 192.

What the models for LVIS start from (paper, appendix B). The paper leaves open the number of epochs,
here that of the other pre-training.
"""

from ..common.data.objects365_lsj import dataloader
from ..common.schedule import OBJECTS365_IMAGES, iterations_per_epoch, step_schedule
from .co_dino_vit_large_5scale_lsj_16ep_lvis import model, optimizer, train

model.num_classes = 365
model.backbone.pretrained = "eva02_large_patch14_224.mim_m38m"
model.criterion.federated = None
model.query_sources.denoising.num_queries = 1000
model.query_sources.denoising.box_noise = 1.0
dataloader.train.total_batch_size = 192
dataloader.train.mapper.augmentations.canvas = 1280
optimizer.lr = 2e-4
train.output_dir = "output/co_dino_vit_large_5scale_lsj_o365_26ep"
train.max_iter = 26 * iterations_per_epoch(192, OBJECTS365_IMAGES)
train.eval_period = train.checkpointer.period = iterations_per_epoch(192, OBJECTS365_IMAGES)
lr_multiplier = step_schedule(
    26,
    drops=[24],
    iterations_per_epoch=iterations_per_epoch(192, OBJECTS365_IMAGES),
    warmup=500,
    warmup_factor=0.01,
)
