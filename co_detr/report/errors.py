"""What goes wrong: kinds of errors, confusions, and labels that may be wrong themselves."""

import math
from dataclasses import dataclass

import hotcoco
import numpy as np

from .loading import Problem

# name in TIDE -> (name, explanation); IoU is with the object that overlaps most
KINDS = {
    "Cls": ("wrong class", "on an object (IoU at least 0.5) of another class"),
    "Loc": ("inaccurate", "right class, IoU with an object between 0.1 and 0.5"),
    "Both": ("wrong class and inaccurate", "IoU with an object of another class 0.1 to 0.5"),
    "Dupe": ("duplicate", "on an object that a more confident detection has found"),
    "Bkg": ("background", "IoU with every object below 0.1"),
    "Miss": ("missed", "objects that no detection has found, not even inaccurately"),
}


@dataclass(frozen=True)
class Kind:
    """A kind of error (Bolya et al., TIDE, ECCV 2020).

    Attributes:
        name, explanation: in words.
        gain: what AP50 would gain if there were none, between 0 and 1.
        number: among all detections.
        kept: among those above the thresholds of their classes.
    """

    name: str
    explanation: str
    gain: float
    number: int
    kept: int


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Attributes:
        image_id: where.
        box: (x, y, width, height) in pixels.
        label: the name in the annotations; None where there is none.
        found: the name detected; None where nothing was.
        score: of the detection.
    """

    image_id: int
    box: tuple[float, float, float, float]
    label: str | None
    found: str | None
    score: float | None


def kinds(everything: hotcoco.COCOeval, kept: hotcoco.COCOeval) -> list[Kind]:
    """Kinds of errors, those that cost most first."""
    errors, few = everything.tide_errors(), kept.tide_errors()
    rows = [
        Kind(*KINDS[key], errors["delta_ap"][key], errors["counts"][key], few["counts"][key])
        for key in KINDS
    ]
    return sorted(rows, key=lambda row: -row.gain)


def confusion(kept: hotcoco.COCOeval) -> np.ndarray:
    """(K + 1, K + 1) counts: rows are objects, columns detections; the last of both is nothing."""
    return np.asarray(kept.confusion_matrix()["matrix"], dtype=np.int64)


def confusions(matrix: np.ndarray, names: list[str], most: int = 15) -> list[tuple[str, str, int]]:
    """(object, detected as, how often) of different classes, the most frequent first."""
    wrong = matrix[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    return [(names[i], names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def suspects(
    problem: Problem, run: hotcoco.COCOeval, thresholds: dict[int, float]
) -> dict[str, list[Suspect]]:
    """Labels to look at, the most confident first.

    Args:
        problem, run: what was evaluated.
        thresholds: category id -> score from which on a detection is believed.

    Returns:
        "missing" (detected, not labelled), "class" (detected as something else) and "never found"
        (no detection at all, however unsure, the largest first).
    """
    diagnosis = run.image_diagnostics(score_thr=0.0)
    detections, labels = problem.found.anns, problem.truth.anns
    lists: dict[str, list[Suspect]] = {"missing": [], "class": [], "never found": []}
    near = set()  # labels with an unsure detection of another class, or told of already
    for doubt in sorted(diagnosis["label_errors"], key=lambda doubt: -doubt["dt_score"]):
        told = doubt["gt_id"] is not None and doubt["gt_id"] in near
        near.add(doubt["gt_id"])
        if told or doubt["dt_score"] < thresholds.get(doubt["dt_category_id"], math.inf):
            continue
        detection = detections[doubt["dt_id"]]
        lists["missing" if doubt["type"] == "missing_annotation" else "class"].append(
            Suspect(
                doubt["image_id"],
                tuple(detection["bbox"]),
                doubt["gt_category"],
                doubt["dt_category"],
                doubt["dt_score"],
            )
        )
    never = [labels[i] for i, status in diagnosis["gt_status"].items() if status == "fn"]
    for label in sorted(never, key=lambda label: (-label["area"], label["id"])):
        if label["id"] not in near:
            name = problem.names[label["category_id"]]
            lists["never found"].append(
                Suspect(label["image_id"], tuple(label["bbox"]), name, None, None)
            )
    return lists
