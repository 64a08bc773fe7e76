"""Co-DAB-DETR-C5, ResNet-50, 36 epochs, K = 2 (published: 43.5 AP)."""

from co_detr.engine.lr_factors import backbone_lr_factor

from ..common.data.coco_detr import dataloader
from ..common.models.co_dab_detr_r50_c5 import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from ..common.train import train

optimizer.lr = 1e-4
optimizer.params.lr_factor_func = backbone_lr_factor

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/co_dab_detr_r50_c5_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
train.eval_period = train.checkpointer.period = ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
