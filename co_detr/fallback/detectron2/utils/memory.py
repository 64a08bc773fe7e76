"""What to do when a GPU runs out of memory."""

import functools
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["retry_if_cuda_oom"]

Result = TypeVar("Result")


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory. " in str(error)


def _to_cpu(value):
    on_gpu = isinstance(value, torch.Tensor) and value.device.type == "cuda"
    return value.cpu() if on_gpu else value


def retry_if_cuda_oom(func: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a function without side effects so that it survives a full GPU.

    A failed call is repeated after emptying the cache of the allocator, and then once more with all
    arguments that are CUDA tensors moved to the CPU; that last result lives on the CPU. Tensors
    inside lists or other containers are not moved. Other errors pass through.
    """

    @functools.wraps(func)
    def wrapped(*args, **kwargs) -> Result:
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        # outside of the handlers, where the traceback no longer keeps the tensors of the call alive
        torch.cuda.empty_cache()
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        logging.getLogger(__name__).info(f"Out of GPU memory: running {func} on the CPU")
        return func(*map(_to_cpu, args), **{k: _to_cpu(v) for k, v in kwargs.items()})

    return wrapped
