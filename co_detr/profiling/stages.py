"""Cutting a step into stages, without a line in the code that is cut."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import nn

from co_detr.modeling.assignment import HungarianMatcher

# how stages are called in a trace
TRACED = "stage: "

# an object, the name of a method of it, and the stage that its calls are
Method = tuple[object, str, str]


class Stages:
    """Tells which stage a program is in, and reads a clock wherever that changes.

        stages = Stages(time.perf_counter)
        with stages("model"), stages("backbone"):
            ...
        seconds = stages.amounts()

    A stage inside another one interrupts it, so every amount is a stage's own, and all of them add
    up to the whole. The same name may come several times.

    Args:
        read: the clock, or anything else that grows: a counter of operators.
        traced: make stages regions in a trace of `torch.profiler`; begin and end of a region are
            operators themselves.
    """

    def __init__(self, read: Callable[[], Any], traced: bool = False):
        self._read = read
        self._traced = traced
        self._open: list[tuple[str, contextlib.AbstractContextManager]] = []
        self._changes: list[tuple[str | None, Any]] = []  # what begins, and the clock then

    @property
    def current(self) -> str | None:
        """The innermost stage; None outside of all."""
        return self._open[-1][0] if self._open else None

    def begin(self, name: str) -> None:
        region: AbstractContextManager = contextlib.nullcontext()
        if self._traced:
            region = torch.profiler.record_function(TRACED + name)
        region.__enter__()
        self._open.append((name, region))
        self._changes.append((name, self._read()))

    def end(self) -> None:
        """End the innermost stage."""
        _, region = self._open.pop()
        self._changes.append((self.current, self._read()))
        region.__exit__(None, None, None)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def amounts(self, difference: Callable[[Any, Any], Any] | None = None) -> dict[str, Any]:
        """By how much the clock went on in each stage, in the order in which they began.

        Args:
            difference: of two readings, the later one first; by default a subtraction.
        """
        amounts: dict[str, Any] = {}
        for (name, start), (_, end) in zip(self._changes, self._changes[1:]):
            if name is not None:
                passed = difference(end, start) if difference else end - start
                amounts[name] = amounts[name] + passed if name in amounts else passed
        return amounts


def stage_clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """A clock for `Stages`, and the difference of its readings in seconds.

    On CUDA it is the device's: events in its stream, which nothing waits for. A stage then lasts
    from the end of what was queued before it to the end of its own work, idle time included.
    """
    if device.type != "cuda":
        return time.perf_counter, lambda end, start: end - start

    def read() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(end: torch.cuda.Event, start: torch.cuda.Event) -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return read, seconds


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that count as stages, by name: a model's children, those of its dictionaries of
    parts one by one, and matchers wherever they are."""
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict):
            parts |= {f"{name}.{key}": part for key, part in child.items()}
        else:
            parts[name] = child
    matchers = {n: m for n, m in model.named_modules() if isinstance(m, HungarianMatcher)}
    return parts | matchers


@contextlib.contextmanager
def watched(model: nn.Module, stages: Stages, methods: Sequence[Method] = ()) -> Iterator[None]:
    """Inside, a model's parts are stages when they are called, and so is what `methods` list.

    What the model does besides is the stage "model". Heads and the mask branch also detect by a
    method `inference`, which counts like a call.
    """
    parts = parts_of(model)
    methods = [*methods, *((p, "inference", n) for n, p in parts.items() if _detects(p))]
    with contextlib.ExitStack() as undo:
        for name, part in {"model": model, **parts}.items():
            before = part.register_forward_pre_hook(lambda *_, name=name: stages.begin(name))
            # after an error, too
            after = part.register_forward_hook(lambda *_: stages.end(), always_call=True)
            undo.callback(before.remove)
            undo.callback(after.remove)
        for owner, method, name in methods:
            staged = stages(name)(getattr(owner, method))
            undo.enter_context(mock.patch.object(owner, method, staged))
        yield


def _detects(part: nn.Module) -> bool:
    return callable(getattr(part, "inference", None))
