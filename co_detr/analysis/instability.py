"""How much the matching of queries to objects changes between checkpoints (paper, figure 5).

Letters: N images, Q queries, T identities of queries.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from co_detr.checkpoint.loading import load_for_inference
from co_detr.modeling.assignment import GroundTruth
from co_detr.modeling.base_detector import Detector

from .passes import decode, encode, has_decoder, match, objects_of

UNMATCHED = -1


def instability(previous: Tensor, current: Tensor) -> Tensor:
    """Count the queries that are matched to another object than before (DN-DETR, section 3).

    With V^i_n the index of the object that query n is matched to after epoch i, or -1, the
    instability of one image is IS^i = sum over n of 1(V^i_n != V^(i-1)_n). That of a data set is
    its mean over the images. An object whose query changes counts twice, for the query that loses
    it and for the one that gets it: IS is at most twice the number of objects.

    Args:
        previous, current: (..., T) V^(i-1) and V^i.

    Returns:
        (...) int64.

    Raises:
        ValueError: the two are not about the same queries.
    """
    if previous.shape != current.shape:
        raise ValueError(
            f"matchings of shapes {tuple(previous.shape)} and {tuple(current.shape)} cannot be "
            "compared: take the same pictures, in the same batches, and the same kind of model"
        )
    return (previous != current).sum(-1)


def by_identity(matched: Tensor, identity: Tensor, num_identities: int) -> Tensor:
    """Arrange a matching by what the queries are, where their order is not always the same.

    Learned queries are what their index says. Two-stage queries are the best of the encoder's
    proposals, and their order is the ranking, which changes with the weights: such a query is
    identified by the encoder token that proposed it. A token that is not among the best is matched
    to nothing.

    Args:
        matched: (N, Q) object of each query, or -1.
        identity: (N, Q), 0..T-1, no two the same in an image.
        num_identities: T.

    Returns:
        (N, T) object of each identity, or -1.
    """
    empty = matched.new_full((len(matched), num_identities), UNMATCHED)
    return empty.scatter(1, identity, matched)


def largest_instability(batches: Iterable[Sequence[dict]]) -> float:
    """Mean instability if every object of the images changed its query: twice their mean number."""
    counts = [len(x["instances"]) for examples in batches for x in examples]
    return 2 * sum(counts) / len(counts)


@torch.no_grad()
def match_by_identity(model: Detector, examples: list[dict]) -> Tensor:
    """Match what a model predicts in its last decoder layer to the objects of a batch.

    Args:
        model: in evaluation mode.
        examples: of `examples.annotated_loader`.

    Returns:
        (N, T) object of each query, as an index into the batch's objects, or -1. T is the number of
        learned queries, or of encoder tokens in two-stage models; see `by_identity`.

    Raises:
        ValueError: the model has no decoder.
    """
    if not has_decoder(model):
        raise ValueError("there is no matching in a model without a decoder")
    memory, sizes = encode(model, examples)
    _, predictions = decode(model, memory)
    truth = GroundTruth.from_instances(objects_of(model, examples), sizes)
    matched = match(model, predictions, truth)[-1]
    if model.proposals is None:
        return matched
    proposed = model.proposals(memory).index[:, : matched.shape[1]]
    return by_identity(matched, proposed, memory.tokens.shape[1])


@dataclass(frozen=True)
class Change:
    """From one checkpoint to the next, named by the iterations before them.

    `instability` is the mean over the images, `error` its standard error.
    """

    previous: int
    iteration: int
    instability: float
    error: float


def changes(matchings: Iterable[tuple[int, Sequence[Tensor]]]) -> Iterator[Change]:
    """Compare each checkpoint with the one before.

    Args:
        matchings: iteration, and per batch (N, T); of the same batches each time.
    """
    for (previous, before), (iteration, after) in pairwise(matchings):
        pairs = zip(before, after, strict=True)
        counts = torch.cat([instability(*pair) for pair in pairs]).double()
        error = counts.std(correction=min(1, len(counts) - 1)) / len(counts) ** 0.5
        yield Change(previous, iteration, counts.mean().item(), error.item())


_CHECKPOINT = re.compile(r"model_(\d+)\.pth")


def checkpoints_of_run(folder: Path, every: int = 1) -> dict[int, Path]:
    """The checkpoints that a training saved on its way, by the number of iterations before them.

    Args:
        folder: `train.output_dir` of the run.
        every: take only the last of so many that follow each other.

    Raises:
        FileNotFoundError: there are not at least two.
    """
    found = {
        int(name[1]) + 1: path
        for path in sorted(folder.glob("model_*.pth"))
        if (name := _CHECKPOINT.fullmatch(path.name))
    }
    chosen = dict(list(sorted(found.items()))[every - 1 :: every])
    if len(chosen) < 2:
        raise FileNotFoundError(
            f"{folder} has {len(found)} checkpoints model_<iteration>.pth, of which {len(chosen)} "
            "are left, but a change takes two: train with a smaller train.checkpointer.period, and "
            "with train.checkpointer.max_to_keep=null"
        )
    return chosen


def matchings_of_run(
    model: Detector, checkpoints: Mapping[int, Path], batches: Sequence[list[dict]]
) -> Iterator[tuple[int, list[Tensor]]]:
    """Match the same batches with the weights of each checkpoint.

    Args:
        model: in evaluation mode; gets the weights.
        checkpoints: see `checkpoints_of_run`.
        batches: of `examples.annotated_loader`.

    Yields:
        iteration, and per batch what `match_by_identity` returns.
    """
    for iteration, path in checkpoints.items():
        load_for_inference(model, path)
        yield iteration, [match_by_identity(model, examples).cpu() for examples in batches]
