"""Counting the operators for which the host waits for the device.

A GPU works off a queue that the host fills in advance. It runs dry wherever the host must know a
value before it can go on: a number that is read, or a shape that depends on values, as the result
of boolean indexing has.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = Path(__file__).parent.parent
# what looks at a program is no place in it
WATCHING = {Path(__file__), *(PACKAGE / "profiling").glob("*.py")}

# Operators whose result is a number on the host, or has a shape that depends on values.
WAITING = {
    "aten::_local_scalar_dense",  # item, bool, int, float of a tensor
    "aten::_unique",
    "aten::_unique2",
    "aten::allclose",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::multinomial",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::unique_dim_consecutive",
    "torchvision::nms",
}
# Indexing with a mask looks for the positions of its true values.
INDEXING = {"aten::index", "aten::_unsafe_index"}
INDEXED_WRITING = {
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index_put",
}


class HostSyncs:
    """A context in which waits of the host, and all operators, are counted.

        with HostSyncs() as syncs:
            train_step()
        print(syncs.total, syncs.places)

    With the default device a step on the CPU tells what it would wait for on a GPU: all its tensors
    count as the device's, and `co_detr` runs the implementations for other devices. What that
    cannot tell from a copy to the device, `tensor.to("cpu")`, is not counted; `tensor.cpu()` is.

    Args:
        device: whose tensors are waited for.

    Attributes:
        waits: how often each operator made the host wait.
        places: the same by "file:line" of this package, or "backward" of what has no line in it.
        operations: number of operators dispatched, views included.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device_type = torch.device(device).type
        self.waits: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.operations = 0
        self._modes = ExitStack()

    @property
    def total(self) -> int:
        """Waits of all kinds."""
        return self.waits.total()

    def __enter__(self) -> "HostSyncs":
        self._modes.enter_context(_Dispatched(self))
        self._modes.enter_context(_Called(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._modes.close()

    def _wait(self, name: str) -> None:
        self.waits[name] += 1
        self.places[place()] += 1


class _Dispatched(TorchDispatchMode):
    """Sees every operator, below autograd."""

    def __init__(self, syncs: HostSyncs):
        super().__init__()
        self.syncs = syncs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.syncs.operations += 1
        if waits(func, args, kwargs or {}, self.syncs.device_type):
            self.syncs._wait(func._schema.name)
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    """Sees the copies to the host that are none on a CPU, so that nothing is dispatched."""

    def __init__(self, syncs: HostSyncs):
        super().__init__()
        self.syncs = syncs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.syncs.device_type == "cpu" and func in (Tensor.cpu, Tensor.tolist):
            self.syncs._wait(func.__name__)
        return func(*args, **(kwargs or {}))


def waits(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], device_type: str
) -> bool:
    """Tell whether an operator, called like this, makes the host wait for a device of that type."""
    name = func._schema.name
    tensor = args[0] if args else None
    if not isinstance(tensor, Tensor) or tensor.device.type != device_type:
        return name == "aten::copy_" and _to_host(args[1], tensor, device_type)
    if name in INDEXING:
        return _has_mask(args[1])
    if name in INDEXED_WRITING:
        # A single value is filled in where the mask is true, wherever that is.
        return _has_mask(args[1]) and args[2].numel() > 1
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    if name == "aten::_to_copy":
        return device_type != "cpu" and kwargs.get("device") == torch.device("cpu")
    return name in WAITING


def _to_host(source: object, target: object, device_type: str) -> bool:
    if not (isinstance(source, Tensor) and isinstance(target, Tensor)):
        return False
    return source.device.type == device_type and target.device.type == "cpu"


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def place() -> str:
    """Where in this package the innermost call stands, as "file:line"; else "backward"."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) and path not in WATCHING:
            return f"{path.relative_to(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"
