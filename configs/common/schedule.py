"""Learning rate schedules in epochs, by default of COCO train2017 at 16 images per batch."""

import math

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

COCO_IMAGES = 118287
LVIS_IMAGES = 100170
OBJECTS365_IMAGES = 1742289


def iterations_per_epoch(batch_size, images=COCO_IMAGES):
    """Batches that show every image once."""
    return math.ceil(images / batch_size)


ITERATIONS_PER_EPOCH = iterations_per_epoch(16)
# Images, not draws: with repeat factors, it takes more draws to show every image.
LVIS_ITERATIONS_PER_EPOCH = iterations_per_epoch(16, LVIS_IMAGES)


def step_schedule(
    epochs, drops, iterations_per_epoch=ITERATIONS_PER_EPOCH, warmup=0, warmup_factor=0.001
):
    """Constant, divided by 10 after each epoch in `drops`; linear warm-up over `warmup` steps."""
    max_iter = epochs * iterations_per_epoch
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**i for i in range(len(drops) + 1)],
            milestones=[drop * iterations_per_epoch for drop in drops],
            num_updates=max_iter,
        ),
        warmup_length=warmup / max_iter,
        warmup_factor=warmup_factor,
    )
