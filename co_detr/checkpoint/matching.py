"""How far the tensors of a checkpoint fit a model, in numbers and in words."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .hints import hint_for

SHOWN_NAMES = 5  # of each kind in a message

# Counts batches for averages without momentum, which no model here has: never worth a word.
_COUNTER = "num_batches_tracked"


class UnfittingCheckpointError(ValueError):
    """The tensors of a checkpoint are not those of the model."""


@dataclass(frozen=True)
class Misshapen:
    """A tensor that both sides have, in two shapes."""

    name: str
    file: tuple[int, ...]
    model: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: file {self.file}, model {self.model}"


@dataclass(frozen=True)
class Comparison:
    """What a checkpoint and a model have in common, and what not.

    Attributes:
        fitting: names that both have, in one shape.
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        misshapen: tensors of another shape.
        non_finite: tensors of the model that are NaN or infinite somewhere in the file.
        hint: the likely reason and the remedy; empty if nothing is known.
        file: what was compared with the model.
    """

    fitting: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[Misshapen, ...] = ()
    non_finite: tuple[str, ...] = ()
    hint: str = ""
    file: str = "the checkpoint"

    @property
    def fits(self) -> bool:
        """Whether the model can be run with the file; it may hold more than is needed."""
        return not (self.missing or self.misshapen or self.non_finite)

    def describe(self) -> str:
        """Counts, the first names of each kind, the parts of the model concerned, and the hint."""
        total = len(self.fitting) + len(self.missing) + len(self.misshapen)
        lines = [f"{self.file} has {len(self.fitting)} of the model's {total} tensors"]
        for title, entries in (
            ("missing from it", self.missing),
            ("of another shape", self.misshapen),
            ("not finite", self.non_finite),
            ("unknown to the model", self.unexpected),
        ):
            if entries:
                lines.append(f"{title} ({len(entries)}): {first_of(entries)}")
        lacking = [*self.missing, *(entry.name for entry in self.misshapen)]
        if lacking:
            parts = Counter(name.split(".")[0] for name in lacking).items()
            lines.append(f"parts concerned: {first_of(f'{part} ({n})' for part, n in parts)}")
        if self.hint:
            lines.append(self.hint)
        return "\n  ".join(lines)


def compare(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    file: str = "the checkpoint",
    config: str | None = None,
) -> Comparison:
    """Hold the tensors of a checkpoint against a model, without loading them.

    A name that the file lacks is not missing if the model has the same parameter under another
    name that the file has.

    Args:
        tensors: by the model's names, as `wrappers.under_names_of` gives them. Of meta tensors
            only the shapes are compared.
        model: not in a wrapper for distributed training.
        file: the path of the file, for messages.
        config: the path or name of the model's config, for messages.
    """
    state = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    }
    fitting, misshapen = [], []
    for name in state.keys() & tensors.keys():
        shapes = tuple(tensors[name].shape), tuple(state[name].shape)
        if shapes[0] == shapes[1]:
            fitting.append(name)
        else:
            misshapen.append(Misshapen(name, *shapes))
    order = {name: position for position, name in enumerate(state)}
    present = {id(state[name]) for name in state.keys() & tensors.keys()}
    comparison = Comparison(
        fitting=tuple(sorted(fitting, key=order.__getitem__)),
        missing=tuple(
            name
            for name, value in state.items()
            if name not in tensors and id(value) not in present and not name.endswith(_COUNTER)
        ),
        unexpected=tuple(n for n in tensors if n not in state and not n.endswith(_COUNTER)),
        misshapen=tuple(sorted(misshapen, key=lambda entry: order[entry.name])),
        non_finite=tuple(name for name in state if name in tensors and _broken(tensors[name])),
        file=file,
    )
    return replace(comparison, hint=hint_for(comparison, tensors, model, file, config))


def first_of(entries: Iterable[object], count: int = SHOWN_NAMES) -> str:
    """The first entries as text, and how many more there are."""
    texts = [str(entry) for entry in entries]
    more = len(texts) - count
    return ", ".join(texts[:count]) + (f" and {more} more" if more > 0 else "")


def _broken(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return False
    return not bool(torch.isfinite(tensor.float()).all())
