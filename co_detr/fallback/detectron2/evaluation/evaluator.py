"""The evaluator interface and the loop that feeds it."""

import contextlib
import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process

logger = logging.getLogger(__name__)

_WARMUP_BATCHES = 5  # the first batches are slower than the rest and say nothing about speed
_SECONDS_BETWEEN_REPORTS = 5


class DatasetEvaluator:
    """Collects pairs of inputs and outputs, then computes a result from all of them.

    `reset` starts a new round, `process` takes one batch, `evaluate` ends the round.
    """

    def reset(self) -> None:
        """Forget everything collected so far."""

    def process(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Take the inputs of a batch and what the model answered, item by item."""

    def evaluate(self) -> dict[str, Any] | None:
        """Summarize the round, on the main process: {task: {metric: value}}, or None."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators that share one run over the data."""

    def __init__(self, evaluators: Iterable[DatasetEvaluator]):
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[Any], outputs: list[Any]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Merge the results of all members; no two of them may report the same task."""
        merged: dict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if result is None or not is_main_process():
                continue
            for task, value in result.items():
                assert task not in merged, f"two evaluators report a result named '{task}'"
                merged[task] = value
        return merged


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back into the mode it was in afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def inference_on_dataset(
    model: Callable[[list[Any]], list[Any]],
    data_loader: Iterable[list[Any]],
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
) -> dict[str, Any]:
    """Run a model over a loader without gradients and evaluate its answers.

    Args:
        model: a module, which is switched to evaluation mode meanwhile, or any callable.
        data_loader: batches in order; must have a length.
        evaluator: one evaluator, several, or None to run the model for its own sake.

    Returns:
        What the evaluator returns, {} where it returns None.
    """
    total = len(data_loader)  # type: ignore[arg-type]
    logger.info("Start inference on %d batches", total)
    if evaluator is None:
        evaluator = DatasetEvaluators([])
    elif isinstance(evaluator, (list, tuple)):
        evaluator = DatasetEvaluators(evaluator)
    evaluator.reset()

    with contextlib.ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        _feed(model, data_loader, total, evaluator)

    results = evaluator.evaluate()
    return {} if results is None else results


def _feed(
    model: Callable[[list[Any]], list[Any]],
    data_loader: Iterable[list[Any]],
    total: int,
    evaluator: DatasetEvaluator,
) -> None:
    warmup = min(_WARMUP_BATCHES, max(total - 1, 0))
    begin = measured_from = last_report = ready = time.perf_counter()
    compute = 0.0  # seconds in the model since the warm-up
    for index, inputs in enumerate(data_loader):
        if index == warmup:
            measured_from, compute = ready, 0.0
        start = time.perf_counter()
        outputs = model(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        compute += time.perf_counter() - start
        evaluator.process(inputs, outputs)
        ready = time.perf_counter()

        measured = index + 1 - warmup
        if measured > 0 and ready - last_report > _SECONDS_BETWEEN_REPORTS:
            per_batch = (ready - measured_from) / measured
            logger.info(
                "Inference done %d/%d. Model: %.4f s/batch. Total: %.4f s/batch. ETA=%s",
                index + 1,
                total,
                compute / measured,
                per_batch,
                datetime.timedelta(seconds=int(per_batch * (total - index - 1))),
            )
            last_report = ready
    logger.info(
        "Total inference time: %s (%.4f s in the model per batch, on %d devices)",
        datetime.timedelta(seconds=int(time.perf_counter() - begin)),
        compute / max(total - warmup, 1),
        get_world_size(),
    )
