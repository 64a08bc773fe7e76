"""Losses of query predictions, and the common form of a loss whose normalizer is still open."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

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
    counts = torch.stack([zero + term.count for term in terms.values()]).detach().float()
    counts = sum_over_parts("loss counts", counts)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(counts)
        counts = counts / comm.get_world_size()
    least = torch.stack([zero + term.min_count for term in terms.values()]).detach().float()
    return dict(zip(terms, (totals / counts.maximum(least)).unbind()))


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Mark the class of each label (...): (..., num_classes) bool, nothing for labels outside
    0..num_classes-1. (That of torch checks the labels, for which the host has to know them.)"""
    return labels[..., None] == torch.arange(num_classes, device=labels.device)


class FocalLoss(nn.Module):
    """Focal loss on sigmoid probabilities (RetinaNet, equation 5)."""

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, classes: Tensor, quality: Tensor) -> Tensor:
        """Loss of every query and class.

        Args:
            logits: (..., num_classes).
            classes: (...) labels, background = num_classes.
            quality: (...) IoU of each prediction with its target; not used here.

        Returns:
            (..., num_classes).
        """
        target = one_hot(classes, logits.shape[-1]).to(logits.dtype)
        return sigmoid_focal_loss(logits, target, alpha=self.alpha, gamma=self.gamma)


class QualityFocalLoss(nn.Module):
    """Quality focal loss (GFL, equation 2): the target of the matched class is its box's IoU."""

    def __init__(self, *, beta: float = 2.0):
        super().__init__()
        self.beta = beta

    def forward(self, logits: Tensor, classes: Tensor, quality: Tensor) -> Tensor:
        """As `FocalLoss.forward`."""
        target = one_hot(classes, logits.shape[-1]) * quality[..., None].to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return entropy * (target - logits.sigmoid()).abs() ** self.beta
