"""Training ends when evaluation has stopped improving."""

import json
import logging
import math
import os
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig

from .checkpoint import WholeFileCheckpointer
from .files import whole_file

logger = logging.getLogger(__name__)

FILE_NAME = "early_stop.json"


class StopTraining(BaseException):  # no Exception: detectron2 would log it as a failure
    """Ends a training after the step it is raised in, as planned; `Trainer.train` handles it."""


class EarlyStop(HookBase):
    """Ends a training when so many evaluations in a row were no better than the best before them.

    The results are kept in `early_stop.json`, so that a resumed run goes on counting: those from
    after the checkpoint that it resumes from do not count, since they come again. On every rank,
    behind the `EvalHook`; the main process decides for all.

    Args:
        patience: number of evaluations, at least 1.
        eval_period: iterations between them.
        checkpointer: saves what is final then, as "model_final".
        metric, mode: the result that counts, and whether "max" or "min" of it is better.
    """

    def __init__(
        self,
        patience: int,
        eval_period: int,
        checkpointer: WholeFileCheckpointer,
        metric: str,
        mode: str,
    ):
        self.patience = patience
        self._period = eval_period
        self._checkpointer = checkpointer
        self._metric = metric
        self._mode = mode
        self._path = os.path.join(checkpointer.save_dir, FILE_NAME)
        self._results: list[tuple[int, float]] = []  # (iterations done, value)

    def before_train(self) -> None:
        if comm.is_main_process():
            self._results = read_results(self._path, self.trainer.start_iter)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period or done == self.trainer.max_iter:
            return
        patient = True
        if comm.is_main_process():
            value, _ = self.trainer.storage.latest().get(self._metric, (math.nan, None))
            # once more if the run has ended between this and the end of the evaluation
            self._results = [result for result in self._results if result[0] < done]
            self._results.append((done, float(value)))
            with whole_file(self._path) as file:
                json.dump(self._results, file)
            patient = num_without_progress(self._results, self._mode) < self.patience
        if not comm.all_gather(patient)[0]:
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
            comm.synchronize()  # nobody's end may end the one that writes
            raise StopTraining(
                f"stopped early after {done} of {self.trainer.max_iter} iterations: the last "
                f"{self.patience} evaluations brought no better {self._metric}"
            )


def num_without_progress(results: Sequence[tuple[int, float]], mode: str) -> int:
    """How many results (iterations, value) follow the first best one; all where none is a number.

    `mode` is "max" or "min", what counts as better.
    """
    sign = 1 if mode == "max" else -1
    best, since = -math.inf, 0
    for _, value in results:
        since += 1
        if sign * value > best:
            best, since = sign * value, 0
    return since


def has_stopped(cfg: DictConfig, iterations: int) -> bool:
    """Whether a run of so many iterations has come to its end early, by its own results."""
    patience = patience_of(cfg)
    results = read_results(os.path.join(cfg.train.output_dir, FILE_NAME), iterations)
    if not patience or not results or results[-1][0] != iterations:
        return False
    return num_without_progress(results, cfg.train.best_checkpoint.mode) >= patience


def read_results(path: str, iterations: int) -> list[tuple[int, float]]:
    """What an `EarlyStop` kept of the first `iterations` iterations of a run."""
    if iterations == 0 or not os.path.isfile(path):
        return []
    with open(path) as file:
        return [(done, value) for done, value in json.load(file) if done <= iterations]


def patience_of(cfg: DictConfig) -> int:
    """`train.early_stop.patience`; 0 where training never stops early.

    Raises:
        ValueError: it would never come to an evaluation.
    """
    option = cfg.train.get("early_stop")
    patience = option.get("patience", 0) if isinstance(option, DictConfig) else option
    if not patience or patience < 0:
        return 0
    if (cfg.train.eval_period or 0) <= 0 or cfg.dataloader.get("evaluator") is None:
        raise ValueError(
            f"train.early_stop.patience={patience} counts evaluations, but there are none: set "
            "train.eval_period and dataloader.evaluator, or train.early_stop.patience=0"
        )
    return patience
