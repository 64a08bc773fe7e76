"""Gradient accumulation: the update of a large batch with the memory of a part of it.

Losses are divided by counts over the batch (matched boxes, positive anchors, ...), each loss by its
own, so averaging the gradients of parts is not the gradient of the whole. The counts are known only
after the forward pass. So every part goes through the model twice: once without gradients, which
counts (`WholeBatch.survey`), and once for the gradients. The price is a second forward pass; in
return no loss is an approximation.

What stays different from one large batch is what is random inside the model (dropout, noise of the
denoising queries, sampling of anchors and boxes), drawn for each part as for a batch of its own,
and the statistics of batch norms that are trained, which are those of a part.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel


def split(batch: Any, parts: int) -> list[Any]:
    """Cut a batch into parts whose sizes differ by at most one; any batch is one part of itself.

    Raises:
        ValueError: the batch is no list, or too short.
    """
    if parts == 1:
        return [batch]
    if not isinstance(batch, Sequence) or len(batch) < parts:
        size = f"{len(batch)} images" if isinstance(batch, Sequence) else f"a {type(batch)}"
        raise ValueError(
            f"train.accumulate={parts} cannot cut a batch of {size} per process into as many "
            "parts: raise dataloader.train.total_batch_size or lower train.accumulate"
        )
    ends = [len(batch) * i // parts for i in range(parts + 1)]
    return [batch[start:end] for start, end in zip(ends, ends[1:])]


def communicating(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Inside, gradients of a distributed model are exchanged after the last part alone."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):  # whole gradients are kept until then
        model.set_requires_gradient_sync(last)
    return nullcontext()
