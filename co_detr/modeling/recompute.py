"""Activation checkpointing: memory for time."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint


def call(layer: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """Call a layer; with `recompute` only its inputs are kept for the backward pass.

    There the layer runs once more, with the same random numbers.
    """
    return checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)


def num_recomputed(activation_checkpointing: bool | int, depth: int) -> int:
    """How many of the first blocks of a backbone recompute: True for all, or their number.

    Raises:
        ValueError: there are fewer.
    """
    if isinstance(activation_checkpointing, bool):
        return depth if activation_checkpointing else 0
    if not 0 <= activation_checkpointing <= depth:
        raise ValueError(
            f"activation_checkpointing={activation_checkpointing} of {depth} blocks: give a number "
            "of the first blocks that recompute, True for all, or False"
        )
    return activation_checkpointing
