"""Random subsets of fixed size, for which nothing has to be known on the host, and their rows."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def random_subset(
    candidates: Tensor, limit: int, limits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw from the candidates of each row, without repetition and each subset equally likely.

    Args:
        candidates: (N, m) bool.
        limit: at most so many per row.
        limits: (N,) at most so many of each row besides.

    Returns:
        index (N, k) int64 and drawn (N, k) bool with k = min(limit, m): what was drawn of a row
        comes first; the rest of the row is arbitrary.
    """
    keys = random_rank(candidates).masked_fill(~candidates, -1)
    keys, index = keys.topk(min(limit, keys.shape[1]), dim=1)
    drawn = keys >= 0
    if limits is not None:
        drawn = drawn & (torch.arange(index.shape[1], device=index.device) < limits[:, None])
    return index, drawn


def random_rank(like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) of the shape of `like`, by which random subsets are drawn."""
    return torch.rand(like.shape, device=like.device)


def draw_labelled(
    positive: Tensor, negative: Tensor, num_samples: int, positive_fraction: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Draw a random subset with a limited share of positives (Faster R-CNN, Sec. 3.1.3).

    What detectron2's `subsample_labels` draws, for a batch at once: where positives are few,
    negatives fill up; where negatives are few, the sample is smaller.

    Args:
        positive, negative: (N, m) bool.
        num_samples: size of the sample of each row.
        positive_fraction: at most `int(num_samples * positive_fraction)` of it are positives.

    Returns:
        index and drawn, as in `random_subset`, of positives and of negatives.
    """
    positives = random_subset(positive, int(num_samples * positive_fraction))
    negatives = random_subset(negative, num_samples, num_samples - positives[1].sum(dim=1))
    return positives, negatives


def ordered_samples(
    positive: Tensor, negative: Tensor, num_samples: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Draw like `draw_labelled`: positives first, then negatives, each in their order.

    Returns:
        index (N, k) int64 and drawn (N, k) bool with k = min(num_samples, m); what was drawn of a
        row comes first.
    """
    subsets = draw_labelled(positive, negative, num_samples, positive_fraction)
    rank = torch.zeros_like(positive, dtype=torch.int64)
    for value, (index, drawn) in zip((2, 1), subsets):
        rank = rank.scatter_reduce(1, index, drawn * value, "amax")
    rank, index = rank.sort(dim=1, descending=True, stable=True)
    return index[:, :num_samples], rank[:, :num_samples] > 0


def padded(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """(N, m, ...) of N tensors (m_i, ...), filled up with a value where an image has fewer rows;
    mostly none has."""
    if len({len(x) for x in rows}) == 1:
        return torch.stack(list(rows))
    return pad_sequence(list(rows), batch_first=True, padding_value=value)


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (N, m, k) at indices (N, n): (N, n, k)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
