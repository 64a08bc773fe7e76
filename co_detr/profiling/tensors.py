"""The largest tensors that a program makes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from co_detr.engine.host_syncs import place


@dataclass(frozen=True)
class Made:
    """What tensors of one kind have in common.

    Attributes:
        num_bytes: of one of them.
        shape, dtype: its own.
        operator: that made it.
        stage: in which that was, None outside of all.
        place: "file:line" of this package, or "backward" of what has no line in it.
    """

    num_bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    operator: str
    stage: str | None
    place: str


class LargestTensors(TorchDispatchMode):
    """A context that notes the largest tensors made in it; views are none.

    Args:
        stage: tells the stage at any time.
        min_bytes: smaller ones are not noted.

    Attributes:
        made: how many there were of each kind.
    """

    def __init__(self, stage: Callable[[], str | None] = lambda: None, min_bytes: int = 2**16):
        super().__init__()
        self.stage = stage
        self.min_bytes = min_bytes
        self.made: Counter[Made] = Counter()

    def largest(self, count: int) -> list[tuple[Made, int]]:
        """The kinds of the largest tensors, with how many of each were made."""
        return sorted(self.made.items(), key=lambda kind: -kind[0].num_bytes)[:count]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        new = [x for x in _tensors(out) if _size(x) >= self.min_bytes]
        if new:
            old = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs or {}))}
            for x in new:
                if x.untyped_storage().data_ptr() not in old:
                    self._note(x, func._schema.name)
        return out

    def _note(self, x: Tensor, operator: str) -> None:
        kind = Made(_size(x), tuple(x.shape), x.dtype, operator, self.stage(), place())
        self.made[kind] += 1


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if type(x) in (Tensor, torch.nn.Parameter)]


def _size(x: Tensor) -> int:
    return x.untyped_storage().nbytes() if x.layout is torch.strided else 0
