"""Standard hooks: timing, logging, saving, evaluating, scheduling."""

import datetime
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from .train_loop import HookBase, TrainerBase

logger = logging.getLogger(__name__)


class CallbackHook(HookBase):
    """Calls functions with the trainer."""

    def __init__(
        self,
        *,
        before_train: Callable[[TrainerBase], Any] | None = None,
        after_train: Callable[[TrainerBase], Any] | None = None,
        before_step: Callable[[TrainerBase], Any] | None = None,
        after_step: Callable[[TrainerBase], Any] | None = None,
    ):
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    def before_train(self) -> None:
        if self._before_train:
            self._before_train(self.trainer)

    def after_train(self) -> None:
        if self._after_train:
            self._after_train(self.trainer)
        # they may hold on to large objects
        self._before_train = self._after_train = self._before_step = self._after_step = None

    def before_step(self) -> None:
        if self._before_step:
            self._before_step(self.trainer)

    def after_step(self) -> None:
        if self._after_step:
            self._after_step(self.trainer)


class IterationTimer(HookBase):
    """Logs the seconds of every step as "time", and the speed of the run at its end.

    The first iterations of a run are not representative and left out.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup = warmup_iter

    def before_train(self) -> None:
        self._begin = time.perf_counter()
        self._measured_steps, self._measured_seconds = 0, 0.0

    def before_step(self) -> None:
        self._step_begin = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._step_begin
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup:
            self.trainer.storage.put_scalars(time=seconds)
        if done > self._warmup:
            self._measured_steps += 1
            self._measured_seconds += seconds

    def after_train(self) -> None:
        if not self._measured_steps:
            return
        whole = time.perf_counter() - self._begin
        logger.info(
            "Training speed: %.4f s per iteration over %d iterations; %s in all, hooks included",
            self._measured_seconds / self._measured_steps,
            self._measured_steps,
            datetime.timedelta(seconds=int(whole)),
        )


class PeriodicWriter(HookBase):
    """Lets event writers write every `period` iterations, after the last one, and at the end.

    A period of 0 is never.
    """

    def __init__(self, writers: list[EventWriter], period: int = 20):
        for writer in writers:
            assert isinstance(writer, EventWriter), f"{writer!r} is not an EventWriter"
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        due = self._period > 0 and done % self._period == 0
        if due or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            # other hooks may have put results into the storage after the last step
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """Saves model_<iteration> every period and model_final at the end (see fvcore's class).

    A period of 0 saves at the end alone.
    """

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter
        if self.period <= 0:
            self.period = sys.maxsize

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class EvalHook(HookBase):
    """Runs a function every `eval_period` iterations and logs the numbers it returns.

    Evaluation may be a collective operation: the hook belongs on every rank.
    """

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ):
        """
        Args:
            eval_period: in iterations; 0 for none before the end.
            eval_function: returns a (nested) dict of numbers, or nothing.
            eval_after_train: whether to run after a complete training too, in place of the last
                period.
        """
        self._period = eval_period
        self._function = eval_function
        self._after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._function()
        if results:
            assert isinstance(
                results, dict
            ), f"the evaluation must return a dict of numbers, got {results!r}"
            numbers = {}
            for name, value in flatten_results_dict(results).items():
                try:
                    numbers[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"the evaluation must return a nested dict of numbers, "
                        f"but '{name}' is {value!r}"
                    ) from error
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
        # ranks finish evaluation at different times, which must not look like slow steps
        comm.synchronize()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        # an exception leaves iter below max_iter
        if self._after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        # the function tends to hold on to the trainer
        self._function = None


class BestCheckpointer(HookBase):
    """Saves the model whenever a logged metric is better than before.

    Goes behind the `EvalHook` that logs the metric. The checkpointer writes to its
    "last_checkpoint" file as with every save.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ):
        """
        Args:
            eval_period: the period of the evaluation, in iterations.
            checkpointer: what saves.
            val_metric: name in the event storage, such as "bbox/AP".
            mode: "max" or "min", what counts as better.
            file_prefix: name of the file.
        """
        assert mode in ("max", "min"), f"mode must be 'max' or 'min', got '{mode}'"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._metric = val_metric
        self._is_better = float.__gt__ if mode == "max" else float.__lt__
        self._prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            logger.warning(
                "The evaluation logged no '%s': no best model is chosen by it.", self._metric
            )
            return
        value, iteration = latest
        if not math.isfinite(value):
            return
        if self.best_metric is not None and not self._is_better(value, self.best_metric):
            return
        logger.info("Best %s so far: %.5f at iteration %d", self._metric, value, iteration)
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._prefix, iteration=iteration)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._best_checking()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._best_checking()


class LRScheduler(HookBase):
    """Steps a learning rate scheduler after every iteration and logs the rate as "lr"."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: "torch.optim.lr_scheduler.LRScheduler | ParamScheduler | None" = None,
    ):
        """
        Args:
            optimizer: None for the trainer's.
            scheduler: of torch; or of fvcore, then it multiplies the rates the optimizer starts
                with; None for the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> "torch.optim.lr_scheduler.LRScheduler":
        return self._scheduler if self._scheduler is not None else self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._shown_group = self._group_to_show(self._optimizer)

    @staticmethod
    def _group_to_show(optimizer: torch.optim.Optimizer) -> int:
        """The parameter group with most tensors; among single ones, one with the usual rate."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._shown_group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler):
            return self.scheduler.state_dict()
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler):
            logger.info("Loading the state of the learning rate scheduler.")
            self.scheduler.load_state_dict(state_dict)
