"""Co-DINO, ResNet-50, LVIS v1, DETR augmentation, 12 epochs."""

from ..common.data.lvis_detr import dataloader
from ..common.models.lvis import use_lvis_classes
from ..common.schedule import LVIS_ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_r50_5scale_12ep import model, optimizer, train

use_lvis_classes(model)
dataloader.evaluator.max_dets_per_image = model.postprocess.max_detections
train.output_dir = "output/co_dino_r50_5scale_12ep_lvis"
train.max_iter = 12 * LVIS_ITERATIONS_PER_EPOCH
train.eval_period = train.checkpointer.period = LVIS_ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(12, drops=[11], iterations_per_epoch=LVIS_ITERATIONS_PER_EPOCH)
