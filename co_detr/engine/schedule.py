"""The learning rate schedule of a config, for detectron2's trainers."""

from detectron2.config import instantiate
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig


class UpToTheEnd(ParamScheduler):
    """A schedule that may be asked for the end of training.

    fvcore's are for the time before, and some of them fail at the end. But detectron2 asks after
    each step for the next learning rate, and so after the last one, before the final checkpoint.
    """

    def __init__(self, schedule: ParamScheduler):
        self._schedule = schedule

    def __call__(self, where: float) -> float:
        """The factor at a share of the training from 0 to 1."""
        return self._schedule(min(where, 1 - 2 * self.WHERE_EPSILON))


def build_schedule(cfg: DictConfig) -> ParamScheduler:
    """`lr_multiplier` of a config.

    Raises:
        ValueError: it is none of fvcore's schedules.
    """
    schedule = instantiate(cfg.lr_multiplier)
    if not isinstance(schedule, ParamScheduler):
        raise ValueError(
            f"lr_multiplier is of the type {type(schedule).__name__}: it must be a ParamScheduler "
            "of fvcore, or a subclass with __call__(where)"
        )
    return UpToTheEnd(schedule)
