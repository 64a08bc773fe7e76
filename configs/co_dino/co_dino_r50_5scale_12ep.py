"""Co-DINO, ResNet-50, five scales, DETR augmentation, 12 epochs (published: 52.1 AP)."""

from co_detr.engine.lr_factors import backbone_lr_factor

from ..common.data.coco_detr import dataloader
from ..common.models.co_dino_r50 import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from ..common.train import train

optimizer.params.lr_factor_func = backbone_lr_factor

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/co_dino_r50_5scale_12ep"
train.max_iter = 12 * ITERATIONS_PER_EPOCH
train.eval_period = train.checkpointer.period = ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(12, drops=[11])
