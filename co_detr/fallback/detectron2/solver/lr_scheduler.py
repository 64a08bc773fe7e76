"""Schedules that multiply the base learning rate by a function of training progress."""

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule whose beginning is replaced by a warmup (Goyal et al., arXiv:1706.02677).

    Args:
        scheduler: the schedule, a function of progress in [0, 1].
        warmup_factor: the warmup starts at this times the schedule's first value.
        warmup_length: the part of training, in [0, 1], that the warmup takes.
        warmup_method: "linear" rises to where the schedule is at the end of the warmup; "constant"
            stays where it starts.

    Raises:
        ValueError: the method is unknown.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
    ):
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            warmup = LinearParamScheduler(start, scheduler(warmup_length))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(
                f"unknown warmup method {warmup_method!r}: choose 'linear' or 'constant'"
            )
        # "fixed": the schedule goes on as if there had been no warmup.
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Set each group's learning rate to its initial one times a function of training progress.

    To be stepped once per iteration.

    Args:
        multiplier: called with `iteration / max_iter`.
        max_iter: number of iterations of the whole training.
        last_iter: the iteration to continue after; -1 for a new training.

    Raises:
        ValueError: the multiplier is not an fvcore `ParamScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(
                "multiplier must be an fvcore ParamScheduler, not "
                f"{type(multiplier).__name__}: wrap it in a class with __call__(where)"
            )
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def get_lr(self) -> list[float]:
        multiplier = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * multiplier for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, object]:
        """The iteration and the initial rates; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}
