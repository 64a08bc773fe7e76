"""Query groups: the tensors that a training scheme sends through the decoder, and who sees whom.

Letters: N images, Q queries, C channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..input_checks import described


@dataclass(frozen=True)
class HungarianTargets:
    """Targets by one-to-one matching in every layer; `repeats` > 1 matches each box so often."""

    repeats: int = 1


@dataclass(frozen=True, eq=False)
class FixedTargets:
    """Targets that are known before the decoder runs and hold for all its layers.

    Attributes:
        classes: (N, Q) labels, background = num_classes.
        boxes: (N, Q, 4) normalized cxcywh, any value where the label is background.
    """

    classes: Tensor
    boxes: Tensor


@dataclass(frozen=True, eq=False)
class QueryGroup:
    """One batch of queries of one kind.

    Attributes:
        name: "matching", "denoising", "customized/atss", ...
        content: (N, Q, C).
        reference: (N, Q, 4) normalized cxcywh, or (N, Q, 2) points as (cx, cy).
        targets: how predictions of this group get their targets.
        valid: (N, Q) bool, False = padding that nobody sees and nothing counts; None = all valid.
        position: (N, Q, C) fixed for all layers; None = computed from the reference in each layer.
        sees: other groups whose queries this group may attend to.
        num_blocks: equal blocks of consecutive queries that do not see each other.
        weight: multiplies the losses of this group (the paper's lambda_1).
    """

    name: str
    content: Tensor
    reference: Tensor
    targets: HungarianTargets | FixedTargets
    valid: Tensor | None = None
    position: Tensor | None = None
    sees: tuple[str, ...] = ()
    num_blocks: int = 1
    weight: float = 1.0

    def __post_init__(self):
        N, Q, _ = self.content.shape
        if self.reference.shape[:2] != (N, Q) or self.reference.shape[2] not in (2, 4):
            raise ValueError(
                f"group {self.name!r}: reference {tuple(self.reference.shape)} does not fit "
                f"content {tuple(self.content.shape)}"
            )
        if self.valid is not None and self.valid.shape != (N, Q):
            raise ValueError(f"group {self.name!r}: valid has shape {tuple(self.valid.shape)}")
        if self.position is not None and self.position.shape != self.content.shape:
            raise ValueError(f"group {self.name!r}: position {tuple(self.position.shape)}")
        if Q % self.num_blocks:
            raise ValueError(f"group {self.name!r}: {Q} queries in {self.num_blocks} blocks")
        if isinstance(self.targets, FixedTargets):
            classes, boxes = self.targets.classes, self.targets.boxes
            if classes.dtype != torch.int64 or classes.shape != (N, Q) or boxes.shape != (N, Q, 4):
                raise ValueError(
                    f"group {self.name!r}: its targets are classes, {described(classes)}, and "
                    f"boxes, {described(boxes)}, wanted are int64 of shape {(N, Q)} and {(N, Q, 4)}"
                )

    @property
    def num_queries(self) -> int:
        return self.content.shape[1]


def groups_of(source: nn.Module, *inputs: Any) -> list[QueryGroup]:
    """Call a query source.

    Raises:
        TypeError: it returns something else than query groups.
    """
    returned = source(*inputs)
    groups = list(returned) if isinstance(returned, Iterable) else None
    if groups is None or not all(isinstance(group, QueryGroup) for group in groups):
        others = [described(x) for x in groups or () if not isinstance(x, QueryGroup)]
        found = f"a list with {others[0]}" if others else described(returned)
        raise TypeError(
            f"{type(source).__name__}.forward returned {found}, wanted is a list of QueryGroup"
        )
    return groups


@dataclass(frozen=True, eq=False)
class Span:
    """What one group attends to, in positions of the concatenation of all groups.

    Attributes:
        queries: the group's own queries.
        keys: the slices it may see, in the order in which they are concatenated.
        mask: bool, broadcastable to (N, 1, queries, keys), True = visible; None = all of them.
    """

    queries: slice
    keys: tuple[slice, ...]
    mask: Tensor | None

    def keys_of(self, tensor: Tensor) -> Tensor:
        """Cut the visible keys out of (N, M, Q, C / M)."""
        if len(self.keys) == 1:
            return tensor[:, :, self.keys[0]]
        return torch.cat([tensor[:, :, keys] for keys in self.keys], dim=2)


def visibility(groups: Sequence[QueryGroup]) -> list[Span]:
    """Turn what the groups declare into one attention span per group.

    A query sees the valid queries of its own block and of the groups its group names. Padding
    queries see themselves besides, since attention over nothing is undefined.

    Raises:
        ValueError: two groups share a name, or a group sees one that is not there.
    """
    slices: dict[str, slice] = {}
    start = 0
    for group in groups:
        if group.name in slices:
            raise ValueError(f"two query groups are called {group.name!r}")
        slices[group.name] = slice(start, start + group.num_queries)
        start += group.num_queries
    by_name = {group.name: group for group in groups}
    spans = []
    for group in groups:
        missing = [name for name in group.sees if name not in by_name]
        if missing:
            raise ValueError(f"group {group.name!r} sees {missing}, groups are {list(by_name)}")
        seen = [group, *(by_name[name] for name in group.sees)]
        keys = tuple(slices[other.name] for other in seen)
        spans.append(Span(slices[group.name], keys, _mask(group, seen)))
    return spans


def _mask(group: QueryGroup, seen: Sequence[QueryGroup]) -> Tensor | None:
    if group.num_blocks == 1 and all(other.valid is None for other in seen):
        return None
    Q, device = group.num_queries, group.content.device
    block = torch.arange(Q, device=device) // (Q // group.num_blocks)
    same_block = block[:, None] == block[None, :]
    parts = []
    for other in seen:
        visible = torch.ones(Q, other.num_queries, dtype=torch.bool, device=device)[None]
        if other is group:
            visible = same_block[None]
        if other.valid is not None:
            visible = visible & other.valid[:, None, :]
        if other is group and group.valid is not None:
            visible = visible | torch.eye(Q, dtype=torch.bool, device=device)
        parts.append(visible)
    N = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(N, -1, -1) for part in parts], dim=2)[:, None]
