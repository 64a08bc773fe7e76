"""Which implementation of multi-scale deformable attention runs where."""

import functools
import importlib.util
import logging
import os

import torch

VARIABLE = "CO_DETR_MS_DEFORM_ATTN"
REFERENCE, CPU, TRITON = NAMES = ("reference", "cpu", "triton")

_logger = logging.getLogger(__name__)


# A compiler takes the answer as it is at the time of compiling; it need not look inside.
@torch.compiler.assume_constant_result
def implementation_for(device_type: str) -> str:
    """Name the implementation for tensors on such a device.

    `reference` is plain PyTorch, for any device; `cpu` the bag of rows; `triton` the kernels for
    CUDA devices (or, slowly, for the CPU in Triton's interpreter, if TRITON_INTERPRET=1). The
    environment variable `CO_DETR_MS_DEFORM_ATTN` forces one of them; else the fastest is taken,
    which the log says once.

    Raises:
        ValueError: the variable names no implementation, or one that cannot run on the device.
    """
    forced = os.environ.get(VARIABLE)
    if forced:
        _check_forced(forced, device_type)
        return forced
    chosen, reason = REFERENCE, f"there is no faster one for {device_type}"
    if device_type == "cpu":
        chosen, reason = CPU, "the fast one for the CPU"
    elif device_type == "cuda":
        if _has_triton():
            chosen, reason = TRITON, "the fast one for CUDA"
        else:
            reason = "for the fast one, install the package triton"
    _say_once(device_type, chosen, reason)
    return chosen


def _check_forced(name: str, device_type: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{VARIABLE}={name} is none of {', '.join(NAMES)}.")
    problem = None
    if name == CPU and device_type != "cpu":
        problem = "move the model to the CPU"
    elif name == TRITON and not _has_triton():
        problem = "install the package triton"
    elif name == TRITON and device_type != "cuda":
        interpreted = device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        if not interpreted:
            problem = "move the model to a CUDA device"
    if problem is not None:
        raise ValueError(f"{VARIABLE}={name} cannot run on {device_type}: {problem}, or unset it.")


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _say_once(device_type: str, chosen: str, reason: str) -> None:
    _logger.info("Deformable attention on %s: %s implementation (%s).", device_type, chosen, reason)
