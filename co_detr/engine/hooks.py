"""Hooks that detectron2 has too, changed so that an interrupted run continues like a whole one."""

import contextlib
import logging
import math
import os
import re
import sys
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from .checkpoint import WholeFileCheckpointer
from .files import remove_partial_files

logger = logging.getLogger(__name__)


def or_never(period: int | None) -> int:
    """A period in iterations; one that never comes where it is 0, negative or None."""
    return period if period and period > 0 else sys.maxsize


class AverageWeights(HookBase):
    """Updates averaged weights after every step.

    Args:
        averaged: the average, which the first update begins with a copy.
        model: what is trained.
        start: iterations after which averaging begins; until then the average is the model itself,
            so that the weights of a model that knows nothing yet do not weigh in.

    Raises:
        ValueError: `start` is negative.
    """

    def __init__(self, averaged: AveragedModel, model: nn.Module, start: int = 0):
        if start < 0:
            raise ValueError(
                f"train.ema.start={start} must be at least 0, which averages from the first step on"
            )
        self.averaged = averaged
        self.model = model
        self.start = start

    def after_step(self) -> None:
        if self.trainer.iter < self.start:
            self.averaged.n_averaged.zero_()
        self.averaged.update_parameters(self.model)


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """detectron2's hook; `max_to_keep` also counts the files from before an interruption.

    Belongs on every rank, as all have a share of what is saved if the model is sharded; the first
    one writes and removes files.

    Args:
        checkpointer: what saves.
        period: in iterations; 0 saves at the end of the training alone.
        max_to_keep: files besides the final one; 0 or None for all.
        settings: others of that hook.
    """

    def __init__(
        self,
        checkpointer: WholeFileCheckpointer,
        period: int,
        max_to_keep: int | None = None,
        **settings: Any,
    ):
        if not max_to_keep or max_to_keep < 0 or not comm.is_main_process():
            max_to_keep = None
        super().__init__(checkpointer, or_never(period), max_to_keep=max_to_keep, **settings)

    def before_train(self) -> None:
        super().before_train()
        folder = self.checkpointer.save_dir
        if not comm.is_main_process():
            return
        if self.trainer.start_iter == 0 or not os.path.isdir(folder):
            return  # the files of another run are none of this one's business
        numbered = re.compile(re.escape(self.file_prefix) + r"_(\d{7})\.pth")
        own = [match for name in sorted(os.listdir(folder)) if (match := numbered.fullmatch(name))]
        self.recent_checkpoints = [
            os.path.join(folder, match[0])
            for match in own
            if int(match[1]) < self.trainer.start_iter
        ]
        remove_partial_files(folder, ".pth")

    def save_now(self, iteration: int) -> None:
        """Save the state after an iteration outside of the schedule, unless that was just done."""
        name = f"{self.file_prefix}_{iteration:07d}"
        if self.checkpointer.last_saved == name:
            return
        self.checkpointer.save(name, iteration=iteration)
        self.recent_checkpoints.append(os.path.join(self.checkpointer.save_dir, f"{name}.pth"))
        while self.max_to_keep is not None and len(self.recent_checkpoints) > self.max_to_keep:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it by hand
                os.remove(self.recent_checkpoints.pop(0))


class BestCheckpointer(HookBase):
    """Saves the weights with the best result of all evaluations as `<name>.pth`.

    Unlike detectron2's hook of that name it leaves `last_checkpoint` alone, so that a resumed run
    does not fall back to the best model; and it remembers the best result over interruptions, by
    storing it beside the weights. Belongs behind the `EvalHook`, on every rank; the first one
    decides and writes.

    Args:
        eval_period: iterations between evaluations; 0 for one at the end.
        model: what is saved.
        output_dir: where.
        metric: name of the result, such as "bbox/AP".
        mode: "max" or "min", what counts as better.
        name: of the file.
    """

    def __init__(
        self,
        eval_period: int,
        model: torch.nn.Module,
        output_dir: str,
        metric: str = "bbox/AP",
        mode: str = "max",
        name: str = "model_best",
    ):
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        self._period = eval_period
        self._checkpointer = WholeFileCheckpointer(model, output_dir, resumable=False)
        self._path = os.path.join(output_dir, f"{name}.pth")
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._name = name
        self._best: float | None = None

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 or not os.path.isfile(self._path):
            return
        # mapped, not read: only two numbers of a large file are wanted
        saved = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        if saved.get("metric") == self._metric:
            self._best = saved["value"]
            logger.info(f"Best {self._metric} before the interruption: {self._best:.3f}")

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare()

    def _compare(self) -> None:
        found = self._better_than_before() if comm.is_main_process() else None
        found = comm.all_gather(found)[0]
        if found is None:
            return
        self._best, iteration = found
        self._checkpointer.save(
            self._name, iteration=iteration, metric=self._metric, value=self._best
        )

    def _better_than_before(self) -> tuple[float, int] | None:
        """The latest result and its iteration, if it is the best so far."""
        value, iteration = self.trainer.storage.latest().get(self._metric, (math.nan, None))
        if iteration is None:
            logger.warning(
                f"The evaluation has no result '{self._metric}', so no best checkpoint is kept: "
                "set train.best_checkpoint.metric to one of the results it logs"
            )
        if iteration is None or not math.isfinite(value):
            return None
        if self._best is not None and self._sign * value <= self._sign * self._best:
            return None
        logger.info(f"Best {self._metric} so far: {value:.3f}, after iteration {iteration}")
        return float(value), iteration


class PeakMemory(HookBase):
    """Logs the most memory so far that this process has allocated on its GPU, in MiB."""

    def after_step(self) -> None:
        peak = torch.cuda.max_memory_allocated() / 2**20
        self.trainer.storage.put_scalar("max_memory", peak, smoothing_hint=False)
