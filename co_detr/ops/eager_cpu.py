"""When to take an implementation that is made for the CPU."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def runs_on_cpu(tensor: Tensor) -> bool:
    """Whether `tensor` holds numbers in this process' memory now, and nothing records a graph.

    Implementations for the CPU may then leave PyTorch (numpy, scipy), and read values freely, since
    nobody waits for them. They hide operators, so a dispatch mode, which watches these (it counts
    operations, or host synchronizations), sees what runs on other devices.
    """
    return tensor.device.type == "cpu" and holds_numbers(tensor)


def holds_numbers(tensor: Tensor) -> bool:
    """Whether `tensor` holds numbers, which may be kept for later, and nothing watches or records
    what is done with it."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)  # not a fake or wrapped tensor
        and _get_current_dispatch_mode() is None
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )
