"""The common form of a loss before its normalizer is known on all ranks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detectron2.utils import comm


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A loss that is still a sum: `total / max(mean over ranks of count, 1)` is what is optimized.

    Keeping the division open lets one collective reduce the normalizers of every loss of a step.

    Attributes:
        total: scalar, the weighted sum over samples, with gradient.
        count: scalar without gradient (tensor or number), what this rank's sum is to be divided by.
    """

    total: Tensor
    count: Tensor | float


def normalize(terms: Mapping[str, LossTerm]) -> dict[str, Tensor]:
    """Divide every sum by its normalizer, averaged over the ranks and at least 1.

    Every rank must pass the same names in the same order, whatever its batch holds: the normalizers
    of all terms travel in one all-reduce.

    Args:
        terms: unfinished losses by name.

    Returns:
        Scalar losses under the same names.
    """
    if not terms:
        return {}
    device = next(iter(terms.values())).total.device
    counts = torch.stack(
        [
            torch.as_tensor(term.count, dtype=torch.float32, device=device).detach()
            for term in terms.values()
        ]
    )
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(counts)
        counts = counts / comm.get_world_size()
    counts = counts.clamp(min=1)
    return {name: term.total / count for (name, term), count in zip(terms.items(), counts)}
