"""Co-DINO, Swin-L, LVIS v1, large-scale jittering at 1280, 36 epochs (published: 56.9 AP)."""

from ..common.data.lvis_lsj import dataloader
from ..common.models.lvis import use_lvis_classes
from ..common.schedule import LVIS_ITERATIONS_PER_EPOCH, step_schedule
from .co_dino_swin_large_5scale_lsj_36ep import model, optimizer, train

use_lvis_classes(model)
dataloader.train.mapper.augmentations.canvas = 1280
dataloader.evaluator.max_dets_per_image = model.postprocess.max_detections
train.output_dir = "output/co_dino_swin_large_5scale_lsj_36ep_lvis"
train.max_iter = 36 * LVIS_ITERATIONS_PER_EPOCH
train.eval_period = train.checkpointer.period = LVIS_ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30], iterations_per_epoch=LVIS_ITERATIONS_PER_EPOCH)
