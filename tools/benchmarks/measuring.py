"""Time two calls against each other, and the memory that they need."""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

# A repeat calls a side so often that it takes at least this long, in seconds.
MIN_REPEAT_TIME = 0.05

SIDE = ["median ms", "min ms", "peak MiB"]
HEADERS = ["", "A", *SIDE, "B", *SIDE, "B / A"]


@dataclass(frozen=True)
class Comparison:
    """One row of the table: two sides, each a name and a call without arguments."""

    what: str
    first: tuple[str, Callable[[], object]]
    second: tuple[str, Callable[[], object]]
    memory: bool = False  # measure the peak of memory, too


def time_in_turns(
    comparison: Comparison,
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Seconds per call of both sides, one number per repeat."""

    def measure(function: Callable[[], object], calls: int = 1) -> float:
        synchronize(device)
        start = clock()
        for _ in range(calls):
            function()
        synchronize(device)
        return (clock() - start) / calls

    sides = [comparison.first[1], comparison.second[1]]
    warm_up = [measure(side) for side in sides]
    calls = [
        1 if taken > MIN_REPEAT_TIME else math.ceil(MIN_REPEAT_TIME / measure(side))
        for side, taken in zip(sides, warm_up)
    ]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, count, taken in zip(sides, calls, times):
            taken.append(measure(side, count))
    return times


def peak_memory(function: Callable[[], object], device: torch.device) -> float:
    """What a call needs at most besides what is held before it, in MiB.

    On a CPU it is read from Linux's account of the process; nan where there is none.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return math.nan
    before = _kilobytes("VmRSS")
    function()
    return (_kilobytes("VmHWM") - before) / 2**10


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def table_row(
    comparison: Comparison, first: list[float], second: list[float], device: torch.device
) -> list[str]:
    """Cells under `HEADERS`; the ratio is that of the median times."""
    cells = [comparison.what]
    for (name, call), times in ((comparison.first, first), (comparison.second, second)):
        peak = f"{peak_memory(call, device):.0f}" if comparison.memory else ""
        cells += [name, f"{1e3 * statistics.median(times):.2f}", f"{1e3 * min(times):.2f}", peak]
    return [*cells, f"{statistics.median(second) / statistics.median(first):.2f}"]
