"""Co-Deformable-DETR, ResNet-50, 12 epochs, K = 2 (published: 49.5 AP)."""

from ..common.data.coco_detr import dataloader
from ..common.models.co_deformable_detr_r50 import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/co_deformable_detr_r50_12ep"
train.max_iter = 12 * ITERATIONS_PER_EPOCH
train.eval_period = train.checkpointer.period = ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(12, drops=[11])
