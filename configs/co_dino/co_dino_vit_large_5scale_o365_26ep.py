"""Co-DINO, ViT-L, pre-training on Objects365 v2, 26 epochs of batch 224 (paper, appendix B)."""

from ..common.data.objects365_detr import dataloader
from ..common.schedule import OBJECTS365_IMAGES, iterations_per_epoch, step_schedule
from .co_dino_vit_large_5scale_12ep import model, optimizer, train

model.num_classes = 365
model.backbone.pretrained = "eva02_large_patch14_224.mim_m38m"
model.query_sources.denoising.num_queries = 1000
model.query_sources.denoising.box_noise = 1.0
dataloader.train.total_batch_size = 224
dataloader.train.mapper.augmentations.short_sides = list(range(480, 1025, 32))
dataloader.train.mapper.augmentations.max_size = 1280
optimizer.lr = 2.5e-4
train.ema.enabled = False
train.output_dir = "output/co_dino_vit_large_5scale_o365_26ep"
train.max_iter = 26 * iterations_per_epoch(224, OBJECTS365_IMAGES)
train.eval_period = train.checkpointer.period = iterations_per_epoch(224, OBJECTS365_IMAGES)
lr_multiplier = step_schedule(
    26,
    drops=[24],
    iterations_per_epoch=iterations_per_epoch(224, OBJECTS365_IMAGES),
    warmup=500,
    warmup_factor=0.01,
)
