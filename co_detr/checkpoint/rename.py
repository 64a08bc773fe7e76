"""Strict renaming of a state dict by a table of patterns."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Counts batches; has a place only in models that train their batch norm.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Rename:
    """One row of a rename table.

    Attributes:
        pattern: regular expression for a whole source name.
        target: template of the name in our model (`\\1` refers to groups); None drops the tensor.
        transform: applied to the tensor, where its layout differs too.
        shared: several source tensors may yield one name, if they are equal.
    """

    pattern: str
    target: str | None
    transform: Callable[[Tensor], Tensor] | None = None
    shared: bool = False

    def apply(self, name: str) -> tuple[str | None, Callable | None] | None:
        """The name in our model and the transform; None where the row does not match."""
        match = re.fullmatch(self.pattern, name)
        if match is None:
            return None
        return (None if self.target is None else match.expand(self.target)), self.transform


@dataclass(frozen=True)
class SubmoduleRenames:
    """The rows of one submodule, kept beside its code, in names relative to it.

    Attributes:
        prefix: the submodule's name with a dot; only names that start with it match.
        renames: (pattern, replacement) for `re.sub`; the first that matches counts, and names that
            match none stay as they are.
        drops: patterns of tensors that have no place in the model.
        transforms: (pattern of the source name, function on the tensor).
    """

    shared = False

    prefix: str
    renames: Sequence[tuple[str, str]]
    drops: Sequence[str] = ()
    transforms: Sequence[tuple[str, Callable[[Tensor], Tensor]]] = ()

    def apply(self, name: str) -> tuple[str | None, Callable | None] | None:
        """As `Rename.apply`."""
        if not name.startswith(self.prefix):
            return None
        name = name.removeprefix(self.prefix)
        if any(re.search(drop, name) for drop in self.drops):
            return None, None
        transform = next((f for pattern, f in self.transforms if re.search(pattern, name)), None)
        for pattern, replacement in self.renames:
            if re.search(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        return self.prefix + name, transform


class ConversionError(ValueError):
    """A checkpoint and a model do not fit; the message lists every name that is left over."""


def rename(
    source: Mapping[str, Tensor],
    table: Sequence[Rename | SubmoduleRenames],
    model: Mapping[str, Tensor],
    any_shape: Callable[[str], object] = lambda name: False,
) -> tuple[dict[str, Tensor], list[tuple[str, str | None]]]:
    """Give every source tensor the name it has in the model. The first row that matches counts.

    Counters of batch norm are the only exception to strictness: they are dropped where the model
    does not train its batch norm, and start at zero where the source has none.

    Args:
        source: tensors by their names in the checkpoint (meta tensors will do).
        table: rows, most specific first.
        model: the model's state dict, of which only names and shapes are read.
        any_shape: says of a name in the model whether its shape may differ.

    Returns:
        the renamed tensors, and the list of (source name, our name or None if dropped).

    Raises:
        ConversionError: a source name matches no row, two rows yield one name, a name or shape is
            not the model's, or a tensor of the model stays without a source.
    """
    converted: dict[str, Tensor] = {}
    report: list[tuple[str, str | None]] = []
    unknown, twice, unequal = [], [], []
    for name, tensor in source.items():
        found = ((row, row.apply(name)) for row in table)
        row, applied = next(((r, a) for r, a in found if a is not None), (None, (None, None)))
        if row is None:
            unknown.append(name)
            continue
        target, transform = applied
        if target is not None and target.endswith(_COUNTER) and target not in model:
            target = None
        report.append((name, target))
        if target is None:
            continue
        if target in converted and not row.shared:
            twice.append(target)
        elif target in converted and not _equal(converted[target], tensor):
            unequal.append(name)
        converted[target] = transform(tensor) if transform is not None else tensor
    for name, tensor in model.items():
        if name.endswith(_COUNTER) and name not in converted:
            converted[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    shapes = [
        f"{name}: checkpoint {tuple(tensor.shape)}, model {tuple(model[name].shape)}"
        for name, tensor in converted.items()
        if name in model and tensor.shape != model[name].shape and not any_shape(name)
    ]
    problems = {
        "checkpoint tensors that no rule knows": unknown,
        "names that two checkpoint tensors claim": twice,
        "tensors that differ where the model shares one": unequal,
        "converted tensors that the model lacks": [n for n in converted if n not in model],
        "model tensors that the checkpoint lacks": [n for n in model if n not in converted],
        "shapes that differ": shapes,
    }
    if any(problems.values()):
        listing = "\n".join(
            f"{title} ({len(names)}):\n  " + "\n  ".join(names)
            for title, names in problems.items()
            if names
        )
        raise ConversionError(
            "the checkpoint does not fit the model; is this the config it was trained with?\n"
            + listing
        )
    return converted, report


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.is_meta or second.is_meta:
        return first.shape == second.shape
    return torch.equal(first, second)
