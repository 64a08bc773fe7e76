"""Which detections of a class to keep: the score with the best F1, or with a wanted precision."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .loading import Problem


@dataclass(frozen=True)
class Threshold:
    """Detections of a class that score at least `score`, matched at IoU 0.5.

    Attributes:
        score: the least that is kept.
        precision, recall, f1: of what is kept.
    """

    score: float
    precision: float
    recall: float
    f1: float


def choose(
    scores: np.ndarray, right: np.ndarray, objects: int, precision: float | None = None
) -> Threshold | None:
    """The threshold with the greatest F1 or, with `precision`, with the greatest recall among those
    that are so precise.

    Args:
        scores: (N,) of detections of a class.
        right: (N,) bool, whether each has found an object.
        objects: that there are to be found.
        precision: wanted, between 0 and 1.

    Returns:
        None without any object, without any right detection, or where no threshold is so precise.
    """
    if not objects or not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    kept = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # equal ones stay together
    found = right.cumsum()[kept]
    precisions, recalls = found / (kept + 1), found / objects
    f1 = 2 * found / (kept + 1 + objects)
    if precision is None:
        best = int(f1.argmax())
    else:
        precise = np.flatnonzero((precisions >= precision) & (found > 0))
        if not len(precise):
            return None
        best = int(precise[recalls[precise].argmax()])
    return Threshold(
        float(scores[kept[best]]), float(precisions[best]), float(recalls[best]), float(f1[best])
    )


def by_class(
    problem: Problem,
    statuses: Mapping[int, str],
    objects: Mapping[int, int],
    precision: float | None = None,
) -> dict[int, Threshold | None]:
    """Category id -> its threshold.

    Args:
        problem: what was evaluated.
        statuses: detection id -> "tp" or "fp"; without those that do not count.
        objects: category id -> number of objects.
        precision: see `choose`.
    """
    scores, right = defaultdict(list), defaultdict(list)
    for detection in problem.found.dataset["annotations"]:
        status = statuses.get(detection["id"])
        if status in ("tp", "fp"):
            scores[detection["category_id"]].append(detection["score"])
            right[detection["category_id"]].append(status == "tp")
    return {
        i: choose(np.array(scores[i]), np.array(right[i], bool), number, precision)
        for i, number in objects.items()
    }
