"""What a part of a batch has to know of the whole batch.

Gradient accumulation sends a batch through the model part by part. Most of what the model computes
is a matter of one image. What is not, and would differ between a part and the whole, asks here:

- how large the padded images are, how many denoising queries an object gets, which classes a
  federated loss scores: known from the examples of all parts (`all_inputs`, `all_classes`);
- how many customized queries there are, what the losses are divided by: known when every part has
  gone through the model once (`over_parts`), which is why a survey without gradients comes first.

Outside of accumulation each function hands back what it is given.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WholeBatch:
    """A batch that goes through a model part by part: each one in `survey()`, then in `use()`.

    Args:
        inputs: the examples of all parts, in detectron2's format.
    """

    def __init__(self, inputs: list[dict]):
        self.inputs = inputs
        self._surveyed: dict[str, Tensor] = {}
        self._surveying = False

    @contextmanager
    def survey(self) -> Iterator[None]:
        """Inside, what parts ask for is noted; each one gets its own value back."""
        self._surveying = True
        try:
            with self.use():
                yield
        finally:
            self._surveying = False

    @contextmanager
    def use(self) -> Iterator[None]:
        """Inside, parts get what belongs to the whole batch."""
        global _current
        before, _current = _current, self
        try:
            yield
        finally:
            _current = before

    def _over_parts(
        self, name: str, value: Tensor, reduce: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        # copies, since a collective may follow that works in place
        if not self._surveying:
            return self._surveyed[name].clone()
        seen = self._surveyed.get(name)
        self._surveyed[name] = value.clone() if seen is None else reduce(seen, value)
        return value


_current: WholeBatch | None = None


def all_inputs(part: list[dict]) -> list[dict]:
    """The examples of the batch that `part` belongs to."""
    return part if _current is None else _current.inputs


def all_classes(part: Sequence[Tensor]) -> list[Tensor]:
    """The labels (G,) of every image of the batch that the images of `part` belong to."""
    if _current is None:
        return list(part)
    device = part[0].device
    return [x["instances"].gt_classes.to(device) for x in _current.inputs]


def sum_over_parts(name: str, value: Tensor) -> Tensor:
    """The sum of a value over all parts of the batch; `name` tells it from other values."""
    return value if _current is None else _current._over_parts(name, value, torch.add)


def max_over_parts(name: str, value: Tensor) -> Tensor:
    """The largest of a value over all parts of the batch, element by element."""
    return value if _current is None else _current._over_parts(name, value, torch.maximum)


def asks_for_whole_batch(model: nn.Module) -> bool:
    """Whether a model, or one within, divides its losses by counts of the whole batch.

    Such models say `normalizes_over_batch = True`. Of others the losses are taken to be means over
    images.
    """
    return any(getattr(module, "normalizes_over_batch", False) for module in model.modules())
