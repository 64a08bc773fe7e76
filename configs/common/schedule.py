"""Learning rate schedules, counted in epochs of COCO train2017 (118287 images) at 16 per batch."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

ITERATIONS_PER_EPOCH = 7393  # ceil(118287 / 16)


def step_schedule(epochs, drops, iterations_per_epoch=ITERATIONS_PER_EPOCH, warmup=0):
    """Constant, divided by 10 after each epoch in `drops`; linear warm-up over `warmup` steps."""
    max_iter = epochs * iterations_per_epoch
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**i for i in range(len(drops) + 1)],
            milestones=[drop * iterations_per_epoch for drop in drops],
            num_updates=max_iter,
        ),
        warmup_length=warmup / max_iter,
        warmup_factor=0.001,
    )
