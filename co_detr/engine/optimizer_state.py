"""Optimizer states that outlive a change of what is trained, and how."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from co_detr.checkpoint.matching import first_of

logger = logging.getLogger(__name__)


def named_state(optimizer: torch.optim.Optimizer, names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What of an optimizer belongs into a checkpoint, with the names of its groups' parameters."""
    return {
        "optimizer": optimizer.state_dict(),
        "optimizer_type": type(optimizer).__name__,
        "parameters": [list(group) for group in names],
    }


def fit_optimizer_state(
    checkpoint: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    names: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What of an optimizer's saved state belongs to the parameters it has now.

    Settings (learning rate, weight decay, betas, ...) are the present ones; what differs is logged.

    Args:
        checkpoint: with what `named_state` returned; older ones have the state alone.
        optimizer: as the config made it.
        names: of the parameters of each group now.

    Returns:
        A state for `optimizer.load_state_dict`.

    Raises:
        ValueError: the groups differ, and the names of their parameters were not saved.
    """
    state, saved = optimizer.state_dict(), checkpoint["optimizer"]
    saved_names = checkpoint.get("parameters")
    counts = [[len(g["params"]) for g in groups["param_groups"]] for groups in (saved, state)]
    if saved_names is None:
        if counts[0] != counts[1]:
            raise ValueError(
                f"the optimizer has parameter groups of {counts[1]} parameters, in the checkpoint "
                f"they are of {counts[0]}: resume with the parameters frozen that were frozen then"
            )
        saved_names = names
    index = {
        name: i
        for group, of_group in zip(saved["param_groups"], saved_names)
        for i, name in zip(group["params"], of_group)
    }
    state["state"] = {
        i: saved["state"][index[name]]
        for group, of_group in zip(state["param_groups"], names)
        for i, name in zip(group["params"], of_group)
        if index.get(name) in saved["state"]
    }
    now_type = type(optimizer).__name__
    if (saved_type := checkpoint.get("optimizer_type", now_type)) != now_type:
        logger.warning(f"optimizer was {saved_type}, is {now_type}: it starts without a state")
        state["state"] = {}
    now = {name for group in names for name in group}
    if new := sorted(now - index.keys()):
        logger.warning(
            f"{len(new)} parameters were not trained before and start without optimizer state: "
            f"{first_of(new)}"
        )
    if gone := sorted(index.keys() - now):
        logger.warning(f"{len(gone)} parameters are not trained from here on: {first_of(gone)}")
    _log_settings(saved, saved_names, state, names)
    return state


def laid_out_like(parameter: Tensor, state: Tensor) -> Tensor:
    """A state of a parameter, in the same memory layout; one of another shape as it is.

    The fused optimizers of PyTorch go through memory side by side.
    """
    if state.shape != parameter.shape or state.stride() == parameter.stride():
        return state
    return torch.empty_like(parameter, dtype=state.dtype).copy_(state)


def _log_settings(
    saved: Mapping[str, Any],
    saved_names: Sequence[Sequence[str]],
    state: Mapping[str, Any],
    names: Sequence[Sequence[str]],
) -> None:
    """Log the settings of parameters that have changed, each pair of values once."""
    before, after = _settings(saved, saved_names), _settings(state, names)
    changes = Counter(
        (key, _text(before[name][key]), _text(value))
        for name in before.keys() & after.keys()
        for key, value in after[name].items()
        if before[name].get(key, value) != value
    )
    for (key, old, new), count in sorted(changes.items()):
        logger.warning(f"optimizer: {key} was {old}, is {new} from here on ({count} parameters)")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(
    state: Mapping[str, Any], names: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Settings by the name of a parameter; the learning rate is that before the schedule."""
    return {
        name: {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in {**group, "lr": group.get("initial_lr", group["lr"])}.items()
            if key not in ("params", "initial_lr", "param_names")
        }
        for group, of_group in zip(state["param_groups"], names)
        for name in of_group
    }
