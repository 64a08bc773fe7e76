"""The tables of a report: all, by size, by class."""

import contextlib
import math
from dataclasses import dataclass

import hotcoco
import numpy as np

from .loading import Problem

SIZES = {
    "all": "all",
    "small": "small (below 32 x 32)",
    "medium": "medium",
    "large": "large (above 96 x 96)",
}


@dataclass(frozen=True)
class Row:
    """AP and recall of some objects, between 0 and 1; NaN where there are none.

    Attributes:
        name: of the size or class.
        objects: that are to be found.
        detections: None where they are not counted.
        ap, ap50, ap75: average precision; over IoU 0.5 to 0.95, at 0.5, at 0.75.
        recall: the best possible, as a mean over IoU 0.5 to 0.95.
    """

    name: str
    objects: int
    detections: int | None
    ap: float
    ap50: float
    ap75: float
    recall: float


def summary(run: hotcoco.COCOeval) -> dict[str, float]:
    """The protocol's own numbers by name, between 0 and 1; NaN where it has -1."""
    with contextlib.redirect_stdout(None):
        run.summarize()
    return {k: v if v >= 0 else math.nan for k, v in run.get_results().items()}


def by_size(problem: Problem, run: hotcoco.COCOeval) -> list[Row]:
    """A row for all objects, and one for each range of sizes."""
    objects = _to_find(problem)
    areas = np.array([a["area"] for a in objects])
    rows = []
    for index, (label, (least, most)) in enumerate(
        zip(run.params.area_rng_lbl, run.params.area_rng)
    ):
        number = int(((areas >= least) & (areas <= most)).sum())
        rows.append(_row(SIZES[label], number, None, run, np.s_[:], index))
    return rows


def by_class(problem: Problem, run: hotcoco.COCOeval) -> dict[int, Row]:
    """Category id -> its row, in the order of classes."""
    objects = _counted(_to_find(problem))
    detections = _counted(problem.found.dataset["annotations"])
    return {
        i: _row(problem.names[i], objects.get(i, 0), detections.get(i, 0), run, index, 0)
        for index, i in enumerate(run.params.cat_ids)
    }


def curves(run: hotcoco.COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """Precision at recall 0, 0.01, ..., 1 as (IoU thresholds, recalls), a mean over classes, and
    as (classes, recalls) at IoU 0.5; NaN where there is nothing to find."""
    assert run.eval is not None  # it is accumulated
    precision = _defined(run.eval["precision"][:, :, :, 0, -1])
    return _mean(precision, axis=2), precision[0].T


def _row(name, objects, detections, run, classes, size) -> Row:
    precision = _defined(run.eval["precision"][:, :, classes, size, -1])
    recall = _defined(run.eval["recall"][:, classes, size, -1])
    means = [float(_mean(p)) for p in (precision, precision[0], precision[5], recall)]
    return Row(name, objects, detections, *means)


def _to_find(problem: Problem) -> list[dict]:
    return [a for a in problem.truth.dataset["annotations"] if not a["iscrowd"]]


def _counted(rows: list[dict]) -> dict[int, int]:
    ids, counts = np.unique([row["category_id"] for row in rows], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist()))


def _defined(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return np.where(values > -1, values, math.nan)


def _mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of what is not NaN; NaN without any, in silence."""
    there = ~np.isnan(values)
    total, count = np.where(there, values, 0).sum(axis), there.sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)
