"""Which implementation of multi-scale deformable attention runs where."""

import functools
import logging
import os

import torch

VARIABLE = "CO_DETR_MS_DEFORM_ATTN"
REFERENCE, CPU = NAMES = ("reference", "cpu")

_logger = logging.getLogger(__name__)


# A compiler takes the answer as it is at the time of compiling; it need not look inside.
@torch.compiler.assume_constant_result
def implementation_for(device_type: str) -> str:
    """Name the implementation for tensors on such a device.

    `reference` is plain PyTorch, for any device; `cpu` the bag of rows. The environment variable
    `CO_DETR_MS_DEFORM_ATTN` forces one of them; else the fastest is taken, which the log says once.

    Raises:
        ValueError: the variable names no implementation, or one that cannot run on the device.
    """
    forced = os.environ.get(VARIABLE)
    if forced:
        _check_forced(forced, device_type)
        return forced
    chosen = CPU if device_type == "cpu" else REFERENCE
    _say_once(device_type, chosen)
    return chosen


def _check_forced(name: str, device_type: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{VARIABLE}={name} is none of {', '.join(NAMES)}.")
    if name == CPU and device_type != "cpu":
        raise ValueError(
            f"{VARIABLE}={name} cannot run on {device_type}: unset it, or move the model to a CPU."
        )


@functools.cache
def _say_once(device_type: str, chosen: str) -> None:
    _logger.info("Deformable attention on %s: %s implementation.", device_type, chosen)
