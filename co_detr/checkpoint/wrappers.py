"""Looks through what training scripts wrap weights in: dicts around them, beginnings of names."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_WEIGHTS = ("state_dict", "model", "model_state_dict", "model_state", "module", "weights", "net")
_AVERAGES = ("ema_state_dict", "ema", "model_ema", "state_dict_ema", "ema_model", "ema_state")

# Parts of names that torch and its companions put in for a wrapped module, anywhere.
_TRANSPARENT = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# What counts the updates of a moving average, beside it.
_COUNTERS = {"n_averaged", "steps", "updates", "num_updates"}


def weights_in(content: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; of weights and moving averages, the weights.

    Args:
        content: what a file holds. The weights may lie under keys such as "state_dict" or "model",
            several deep, and may be numpy arrays.

    Returns:
        tensors, without the parts of names that wrappers of modules put in; {} if there are none.
    """
    return {_plain(name): tensor for name, tensor in _find(content, _WEIGHTS + _AVERAGES).items()}


def averages_in(content: Any) -> dict[str, Tensor]:
    """The moving averages that lie apart from the weights, or {}; names as of `weights_in`."""
    found = next(filter(None, _under(content, _AVERAGES)), {})
    return {_plain(name): tensor for name, tensor in found.items()}


def under_names_of(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give tensors the model's names where all that differs is the beginning.

    A file may know the model as a part of something ("model.", "student.", of all its tensors or
    of some), or hold a part of the model (the backbone alone).
    """
    names = {_plain(name): name for name in model.state_dict()}
    file = {_plain(name): tensor for name, tensor in tensors.items()}
    prefix = prefix_to_strip(file, names.__contains__, wanted=len(names))
    if prefix:
        file = without_prefix(file, prefix)
    elif added := _prefix_to_add(file, names):
        file = {added + name: tensor for name, tensor in file.items()}
    counters = _COUNTERS - names.keys()
    return {names.get(n, n): tensor for n, tensor in file.items() if n not in counters}


def prefix_to_strip(names: Iterable[str], known: Callable[[str], bool], *, wanted: int = 1) -> str:
    """The beginning, with a dot, without which most names are known; "" if none helps.

    Args:
        names: of the tensors of a file.
        known: whether a name is one that is looked for.
        wanted: how many names are looked for; a beginning must give half of them.
    """
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            if known(".".join(parts[depth:])):
                counts["".join(f"{part}." for part in parts[:depth])] += 1
    if not counts:
        return ""
    # of weights and their averages, the weights; of two that cannot be told apart, none
    rank = {p: (count, not _averaged(p)) for p, count in counts.items()}
    best = max(rank, key=rank.__getitem__)
    if counts[best] <= counts[""] or counts[best] < wanted / 2:
        return ""
    return best if list(rank.values()).count(rank[best]) == 1 else ""


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Only the tensors whose names begin so, without the beginning."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _prefix_to_add(file: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """The beginning that turns at least half of a file's names into the model's, or ""."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in file:
                counts["".join(f"{part}." for part in parts[:depth])] += 1
    best = max(counts, key=lambda p: (counts[p], -len(p)), default="")
    return best if counts[best] > counts[""] and counts[best] >= len(file) / 2 else ""


def _averaged(prefix: str) -> bool:
    return any(word in prefix.lower() for word in ("ema", "teacher", "averag", "shadow"))


def _find(content: Any, keys: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under the first of the keys that has any, else those at this level."""
    if not isinstance(content, Mapping):
        return {}
    found = next(filter(None, _under(content, keys)), None) or _tensors(content)
    if not found:  # a key of somebody's own, if it is the only one
        inside = list(filter(None, map(_tensors, content.values())))
        found = inside[0] if len(inside) == 1 else {}
    return found


def _under(content: Any, keys: Iterable[str]) -> Iterable[dict[str, Tensor]]:
    if isinstance(content, Mapping):
        for key in keys:
            yield _find(content.get(key), _WEIGHTS + _AVERAGES)


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {
        str(name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
        if isinstance(value, Tensor)
        or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim)
    }


def _plain(name: str) -> str:
    """A name without what wrappers of modules put in."""
    name = _TRANSPARENT.sub("", name)
    while name.startswith("module."):
        name = _TRANSPARENT.sub("", name.removeprefix("module."))
    return name
