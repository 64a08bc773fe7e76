"""Co-DINO, ViT-L (EVA-02), from Objects365 to COCO, 12 epochs of batch 64.

Published: 65.9 AP with test-time augmentation.

Start from a checkpoint trained on Objects365: train.init_checkpoint=...
"""

from functools import partial

from co_detr.modeling.backbone.eva import get_eva_lr_decay_rate

from ..common.data.coco_detr_large import dataloader
from ..common.models.co_dino_vit_large import model
from ..common.schedule import iterations_per_epoch, step_schedule
from .co_dino_r50_5scale_12ep import optimizer, train

model.query_sources.matching.num_queries = 1500
model.query_sources.denoising.num_queries = 300
model.query_sources.denoising.box_noise = 0.4
model.postprocess.max_detections = 1000
_rcnn = model.aux_heads.rcnn
_rcnn.box_head.num_convs = 4
_rcnn.box_head.num_fcs = 1
_rcnn.box_head.class_agnostic_boxes = True
_rcnn.rpn.pad_multiple = model.aux_heads.atss.pad_multiple = 32
_rcnn.delta_std = [0.05, 0.05, 0.1, 0.1]

dataloader.train.total_batch_size = 64
dataloader.train.mapper.augmentations.max_size = 2400

optimizer.lr = 5e-5
optimizer.weight_decay = 0.01
optimizer.params.lr_factor_func = partial(get_eva_lr_decay_rate, lr_decay_rate=0.8, num_layers=24)

train.ema.enabled = True
train.init_checkpoint = ""
train.output_dir = "output/co_dino_vit_large_5scale_12ep"
train.max_iter = 12 * iterations_per_epoch(64)
train.eval_period = train.checkpointer.period = iterations_per_epoch(64)
lr_multiplier = step_schedule(
    12, drops=[7], iterations_per_epoch=iterations_per_epoch(64), warmup=500, warmup_factor=0.01
)
