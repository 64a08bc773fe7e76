"""Whether an exported file finds what its model finds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from co_detr.modeling.transformer.proposals import TwoStageProposals
from co_detr.modeling.whole_batch import WholeBatch

TIE = 5e-5
"""Scores that differ less count as equal: they vary with the order of additions."""

RANK_TIE = 5e-4
"""Proposals whose scores differ less may follow in either order. Wider than TIE, as these come from
the whole encoder, and no excuse: detections are compared for the same order."""

_APART = 1e9  # pixels, of detections that are not the same


class ExportDiffersError(ValueError):
    """An exported file finds something else than its model."""


@dataclass(frozen=True)
class Difference:
    """Between the detections of a file and of its model.

    Attributes:
        boxes: the largest of a box coordinate, in pixels of the picture.
        scores: the largest of a score.
        exchanged: how many detections stand at another place, all among equal scores.
        count: of detections that were compared.
    """

    boxes: float
    scores: float
    exchanged: int
    count: int

    def __str__(self) -> str:
        return (
            f"{self.count} detections, boxes within {self.boxes:.1e} pixels, scores within "
            f"{self.scores:.1e}, {self.exchanged} of equal score in another order"
        )


@torch.no_grad()
def expected_detections(
    model: nn.Module, inputs: list[dict], height: int, width: int, ranking: Tensor | None = None
) -> list[Instances]:
    """What the model finds in pictures that are padded to height x width.

    Args:
        model: detects boxes.
        inputs: in detectron2's format.
        height: of the padded pictures.
        width: of the padded pictures.
        ranking: (images, queries), the tokens whose proposals become queries, best first; None for
            the model's own choice.

    Raises:
        ExportDiffersError: the model does not rank like that, and not because of equal scores, or
            it has no proposals.
    """
    blank = {"image": torch.zeros(3, height, width, dtype=torch.uint8)}
    ranks = nullcontext() if ranking is None else _ranked_as(model, ranking)
    with WholeBatch([*inputs, blank]).use(), ranks:
        return [output["instances"].to("cpu") for output in model.eval()(inputs)]


@contextmanager
def _ranked_as(model: nn.Module, ranking: Tensor) -> Iterator[None]:
    """Inside, a model ranks its proposals as given, if that is right but for equal scores.

    Of hundreds of proposals among ten thousands some are always so close to the next that the order
    of additions decides. Queries that change places are other queries, as each has its own content,
    and all others see them.
    """
    proposals = cast(TwoStageProposals | None, getattr(model, "proposals", None))
    if proposals is None:
        raise ExportDiffersError("the file ranks proposals, of which the model has none")

    def ranked(logits: Tensor, count: int) -> Tensor:
        index = ranking.to(logits.device)
        best = logits.sigmoid().topk(count, dim=1).values
        if index.shape != best.shape or (index.sort(dim=1).values.diff(dim=1) == 0).any():
            raise ExportDiffersError(
                f"the file has {index.shape[1]} proposals, or fewer that differ; the model has "
                f"{count}"
            )
        lag = (best - logits.sigmoid().gather(1, index)).abs().amax().item()
        if lag > RANK_TIE:
            raise ExportDiffersError(
                f"the file ranks proposals otherwise: one has a score that is {lag:.2g} off that "
                "of the model's at the same rank"
            )
        return index

    vars(proposals)["ranked"] = ranked  # goes before the method
    try:
        yield
    finally:
        del vars(proposals)["ranked"]


def compare(
    found: Sequence[Instances], expected: Sequence[Instances], tolerance: float
) -> Difference:
    """Compare the detections of several pictures.

    Args:
        found: of the file.
        expected: of the model.
        tolerance: of box coordinates, in pixels.

    Raises:
        ExportDiffersError: a detection of one has no counterpart in the other: one of the same
            class, with a score within `TIE` and each side of the box within the tolerance. The
            last of a picture may lack one where several compete for the last places, but not more
            than half of all.
    """
    parts = [_compare(*pair, tolerance) for pair in zip(found, expected, strict=True)]
    count, total = sum(part.count for part in parts), sum(map(len, expected))
    if count < total / 2:
        raise ExportDiffersError(
            f"{total - count} of {total} detections have nearly the lowest score, and cannot be "
            "told apart: take a trained model, and a picture of what it detects"
        )
    return Difference(
        max(part.boxes for part in parts),
        max(part.scores for part in parts),
        sum(part.exchanged for part in parts),
        count,
    )


def _compare(found: Instances, expected: Instances, tolerance: float) -> Difference:
    boxes, scores, classes = zip(*(_arrays(found), _arrays(expected)))
    apart = np.abs(boxes[0][:, None] - boxes[1][None]).max(-1, initial=0.0)
    score_apart = np.abs(scores[0][:, None] - scores[1][None])
    same = (classes[0][:, None] == classes[1][None]) & (score_apart <= TIE)
    rows, columns = linear_sum_assignment(np.where(same, np.minimum(apart, _APART / 2), _APART))
    fits = same[rows, columns] & (apart[rows, columns] <= tolerance)
    least = max((s.min() for s in scores if len(s)), default=0.0)
    for what, side, partner, taken in (
        ("the file", 0, "the model", rows[fits]),
        ("the model", 1, "the file", columns[fits]),
    ):
        alone = np.setdiff1d(np.arange(len(scores[side])), taken)
        alone = alone[scores[side][alone] > least + TIE]
        if len(alone):
            raise ExportDiffersError(
                f"{len(alone)} of {len(scores[side])} detections of {what} are not those of "
                f"{partner}: {_described(alone[0], boxes, scores, classes, side)}"
            )
    rows, columns = rows[fits], columns[fits]
    return Difference(
        float(apart[rows, columns].max(initial=0.0)),
        float(score_apart[rows, columns].max(initial=0.0)),
        int((rows != columns).sum()),
        len(rows),
    )


def _arrays(instances: Instances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        instances.pred_boxes.tensor.double().numpy(),
        instances.scores.double().numpy(),
        instances.pred_classes.numpy(),
    )


def _described(index: int, boxes: tuple, scores: tuple, classes: tuple, side: int) -> str:
    """A detection, and how far the nearest of the other side in its class is."""
    other = 1 - side
    text = f"class {classes[side][index]} with score {scores[side][index]:.6f}"
    candidates = np.flatnonzero(classes[other] == classes[side][index])
    if not len(candidates):
        return f"{text}, a class that the other does not find"
    distance = np.abs(boxes[other][candidates] - boxes[side][index]).max(1)
    nearest = candidates[distance.argmin()]
    lag = abs(scores[other][nearest] - scores[side][index])
    return f"{text}, the nearest box is {distance.min():.2g} pixels off, its score {lag:.2g}"
