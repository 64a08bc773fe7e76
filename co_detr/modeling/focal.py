"""Focal losses over many classes, in the memory of their logits.

Almost every (prediction, class) pair is background. What it costs there depends on the logit alone,
so it is summed over the classes a few rows at a time and computed anew in the backward pass; only
the logit of a prediction's own class takes part in ordinary autograd. Written out over all pairs,
the same losses keep about ten tensors of the size of the logits: gigabytes for the anchors of an
image and the 1203 classes of LVIS.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PAIRS_AT_ONCE = 2**22
"""Pairs of a row and a class that are worked on together."""

# Above it log(1 + exp(x)) is x, in float64, too; below it exp(x) is finite, in float32, too.
SOFTPLUS_THRESHOLD = 50.0


class BackgroundAndOwn(NamedTuple):
    """What a focal loss is made of; see `background_and_own`.

    Attributes:
        background: (...) loss of all other classes as background, summed.
        own: (...) logit of the own class; 0 where there is none.
        weight: (...) 1 where there is an own class whose loss counts, else 0.
    """

    background: Tensor
    own: Tensor
    weight: Tensor


def background_and_own(
    logits: Tensor, classes: Tensor, gamma: float, scored: Tensor | None = None
) -> BackgroundAndOwn:
    """Split predictions into their own class and the sum over all others.

    A logit x of a class that is not there costs -log(1 - p) p^gamma with p = sigmoid(x): the focal
    loss (RetinaNet, equation 5, without alpha), and the quality focal loss of a target of 0.

    Args:
        logits: (..., num_classes).
        classes: (...) labels; there is no own class outside 0..num_classes-1.
        gamma: at least 0.
        scored: (num_classes,) bool, classes whose loss counts; None for all.
    """
    num_classes = logits.shape[-1]
    has_own = (classes >= 0) & (classes < num_classes)
    index = classes.where(has_own, 0)
    weight, factors = has_own.to(logits.dtype), None
    if scored is not None:
        factors = scored.to(logits.dtype)
        weight = weight * factors[index]
    background, own = _BackgroundAndOwn.apply(
        logits.reshape(-1, num_classes),
        index.reshape(-1, 1),
        has_own.reshape(-1, 1),
        factors,
        gamma,
    )
    return BackgroundAndOwn(background.view(classes.shape), own.view(classes.shape), weight)


class _BackgroundAndOwn(torch.autograd.Function):
    """`background_and_own` of rows: logits (R, K), index and has_own (R, 1), factors (K,)."""

    @staticmethod
    def forward(ctx, logits, index, has_own, factors, gamma):
        ctx.save_for_backward(logits, index, has_own, factors)
        ctx.gamma = gamma
        sums = []
        for x, own, is_own in _parts(logits, index, has_own):
            loss = x.sigmoid().pow_(gamma).mul_(F.softplus(x, threshold=SOFTPLUS_THRESHOLD))
            loss.scatter_(1, own, loss.gather(1, own).masked_fill_(is_own, 0))
            # no matrix product, which autocast would do in half precision
            sums.append((loss if factors is None else loss.mul_(factors)).sum(1))
        return torch.cat(sums), logits.gather(1, index).where(has_own, 0).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_background, grad_own):
        logits, index, has_own, factors = ctx.saved_tensors
        grad = torch.empty_like(logits)
        rows = logits, index, has_own, grad_background[:, None], grad_own[:, None], grad
        for x, own, is_own, outer, outer_own, result in _parts(*rows):
            # d/dx of softplus(x) p^gamma is p^gamma (p + gamma (1 - p) softplus(x))
            p = x.sigmoid()
            slope = F.softplus(x, threshold=SOFTPLUS_THRESHOLD).mul_(1 - p).mul_(ctx.gamma).add_(p)
            torch.mul(slope.mul_(p.pow_(ctx.gamma)), outer, out=result)
            if factors is not None:
                result.mul_(factors)
            result.scatter_(1, own, outer_own.where(is_own, result.gather(1, own)))
        return grad, None, None, None, None


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Go through tensors (R, ...) together, with so many rows at once as `PAIRS_AT_ONCE` allows."""
    rows = max(1, PAIRS_AT_ONCE // max(1, tensors[0].shape[1]))
    return zip(*(tensor.split(rows) for tensor in tensors))
