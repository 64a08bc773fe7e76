"""Losses of query predictions, and the common form of a loss whose normalizer is still open."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from .focal import background_and_own
from .input_checks import described
from .whole_batch import sum_over_parts


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A loss that is still a sum: `total / max(mean over ranks of count, min_count)` is what is
    optimized.

    Keeping the division open lets one collective reduce the normalizers of every loss of a step.

    Attributes:
        total: scalar, the weighted sum over samples, with gradient.
        count: scalar without gradient (tensor or number), what this rank's sum is to be divided by.
        min_count: above 0; below 1 for sums of weights that may rightly be small.
    """

    total: Tensor
    count: Tensor | float
    min_count: float = 1.0


def check_losses(losses: Any, owner: str) -> None:
    """Look at what a part hands over as its losses; no value is read, so nothing waits.

    Args:
        losses: unfinished losses by name.
        owner: what returned them, for the message.

    Raises:
        TypeError: they are no dict of `LossTerm`.
        ValueError: a sum or a count is no scalar, or a name lacks "loss": what trains goes by it.
    """
    if not isinstance(losses, Mapping):
        raise TypeError(
            f"{owner} returned {described(losses)}, wanted is a dict of losses: "
            '{"loss_box": LossTerm(total, count)}'
        )
    for name, term in losses.items():
        if not isinstance(term, LossTerm):
            raise TypeError(
                f"{owner} returned {name!r} as {described(term)}, wanted is "
                "LossTerm(total, count): a sum, and what it is to be divided by"
            )
        if not _is_scalar(term.total):
            raise ValueError(
                f"{owner} returned {name!r} with a total that is {described(term.total)}, wanted "
                "is a tensor of shape (): add up the losses by .sum()"
            )
        if not (isinstance(term.count, Real) or _is_scalar(term.count)):
            raise ValueError(
                f"{owner} returned {name!r} with a count that is {described(term.count)}, wanted "
                "is a number or a tensor of shape (): add up the counts by .sum()"
            )
        if "loss" not in name:
            raise ValueError(
                f"{owner} returned {name!r}: a name without 'loss' is that of a value which is "
                f"logged, but not trained. Call it 'loss_{name}'"
            )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def normalize(terms: Mapping[str, LossTerm]) -> dict[str, Tensor]:
    """Divide every sum by its normalizer, averaged over the ranks and at least `min_count`.

    Every rank must pass the same names in the same order, whatever its batch holds: the normalizers
    of all terms travel in one all-reduce. Parts of a batch are divided by those of the whole.

    Args:
        terms: unfinished losses by name.

    Returns:
        Scalar losses under the same names.
    """
    if not terms:
        return {}
    totals = torch.stack([term.total for term in terms.values()])
    zero = totals.new_zeros(())  # to add a number copies nothing to the device, to convert it does
    of_terms = [t.count if isinstance(t.count, Tensor) else zero + t.count for t in terms.values()]
    counts = torch.stack(of_terms).detach().float()
    counts = sum_over_parts("loss counts", counts)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(counts)
        counts = counts / comm.get_world_size()
    numbers = {number: zero + number for number in {term.min_count for term in terms.values()}}
    least = torch.stack([numbers[term.min_count] for term in terms.values()]).detach().float()
    return dict(zip(terms, (totals / counts.maximum(least)).unbind()))


class FocalLoss(nn.Module):
    """Focal loss on sigmoid probabilities (RetinaNet, equation 5).

    Args:
        alpha: weight of the own class, 1 - alpha that of background; -1 for no weights.
        gamma: how much less sure answers count.
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self,
        logits: Tensor,
        classes: Tensor,
        quality: Tensor | None = None,
        scored: Tensor | None = None,
    ) -> Tensor:
        """Loss of every query, summed over its classes.

        Args:
            logits: (..., num_classes).
            classes: (...) labels, background = num_classes; below 0 counts as background, too.
            quality: (...) IoU of each prediction with its target; not used here.
            scored: (num_classes,) bool, classes whose loss counts; None for all.

        Returns:
            (...).
        """
        background, own, weight = background_and_own(logits, classes, self.gamma, scored)
        loss = sigmoid_focal_loss(own, torch.ones_like(own), alpha=self.alpha, gamma=self.gamma)
        if self.alpha >= 0:
            background = (1 - self.alpha) * background
        return background + loss * weight


class QualityFocalLoss(nn.Module):
    """Quality focal loss (GFL, equation 2): the target of the matched class is its box's IoU."""

    def __init__(self, *, beta: float = 2.0):
        super().__init__()
        self.beta = beta

    def forward(
        self, logits: Tensor, classes: Tensor, quality: Tensor, scored: Tensor | None = None
    ) -> Tensor:
        """As `FocalLoss.forward`; without gradient to `quality`."""
        background, own, weight = background_and_own(logits, classes, self.beta, scored)
        target = quality.detach().to(own.dtype)
        entropy = F.binary_cross_entropy_with_logits(own, target, reduction="none")
        loss = entropy * (target - own.sigmoid()).abs() ** self.beta
        return background + loss * weight
