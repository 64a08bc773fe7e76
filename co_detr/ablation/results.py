"""What runs have achieved, and whether a difference is more than chance."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from co_detr.engine.metrics_file import read_rows

from .runs import Run
from .tables import Evaluation


class Estimate(NamedTuple):
    """A mean over seeds and its standard error; nan for what is not known."""

    mean: float
    error: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error, the sample's standard deviation over sqrt(n), of independent values.

    One value has no standard error; of none, and where one is nan, nothing is known.
    """
    if not values:
        return Estimate(math.nan, math.nan)
    if len(values) == 1:
        return Estimate(values[0], math.nan)
    # of numpy, for which nan is a number like any other
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)))


def difference(value: Estimate, base: Estimate) -> Estimate:
    """value - base, of runs that have nothing in common but their seeds' numbers."""
    return Estimate(value.mean - base.mean, math.hypot(value.error, base.error))


def verdict(found: Estimate) -> str:
    """ "higher" or "lower" where a difference is more than two of its standard errors."""
    if abs(found.mean) > 2 * found.error:
        return "higher" if found.mean > 0 else "lower"
    return "undecided"


@dataclass(frozen=True)
class Result:
    """What one run, or an evaluation of it, has achieved.

    Attributes:
        metrics: at the end, by COCO's names such as "AP50", in percent.
        curve: AP by the number of iterations, of the evaluations during training.
        seconds: median time of an iteration, nan if it is not known.
        memory: most memory that was allocated on the GPU, in MiB, nan if it is not known.
    """

    metrics: dict[str, float]
    curve: dict[int, float]
    seconds: float
    memory: float


def result_of(run: Run, evaluation: Evaluation | None) -> Result | None:
    """The result of a run; None where it is not complete."""
    if not run.is_complete() or (evaluation is not None and not run.is_evaluated(evaluation)):
        return None
    rows = list(read_rows(run.metrics))
    # An evaluation carries the number of the last iteration before it, counted from 0, the last
    # evaluation that of the iterations. A later row of the same number is of a resumed run.
    evaluated = {min(row["iteration"] + 1, run.iterations): row for row in rows if "bbox/AP" in row}
    last = evaluated[max(evaluated)]
    if evaluation is not None:
        last = json.loads((run.evaluation_folder(evaluation) / "evaluation.json").read_text())
    times = [row["time"] for row in rows if "time" in row][1:]  # the first one is of warming up
    memory = [row["max_memory"] for row in rows if "max_memory" in row]
    return Result(
        {name.removeprefix("bbox/"): value for name, value in last.items()},
        {done: row["bbox/AP"] for done, row in sorted(evaluated.items())},
        statistics.median(times) if times else math.nan,
        max(memory, default=math.nan),
    )
