"""Time, memory, operators and waits of a step, stage by stage."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from co_detr.engine.host_syncs import HostSyncs

from .stages import Stages, stage_clock, watched
from .steps import Step
from .tensors import LargestTensors, Made
from .traces import Memory, memory_by_stage, profiler, read_events

REST = "the rest"
MIB = 2**20


@dataclass(frozen=True)
class Profile:
    """What `profile_step` finds out.

    Attributes:
        seconds: by stage, the median of all repeats; `REST` is what is in no other stage.
        operators, waits: by stage, see `HostSyncs`.
        memory: by stage, see `traces.memory_by_stage`.
        largest: kinds of the largest tensors, and how many of each were made.
    """

    seconds: dict[str, float]
    operators: dict[str, int]
    waits: dict[str, int]
    memory: dict[str | None, Memory]
    largest: list[tuple[Made, int]]


def profile_step(
    step: Step, device: torch.device, trace: Path, *, repeats: int = 3, largest: int = 10
) -> Profile:
    """Run a step several times: to warm up, for its time, for its operators, for its memory.

    Args:
        step: called 3 + `repeats` times.
        device: of its model.
        trace: a file for the Chrome trace of the last call.
        repeats: calls that are timed.
        largest: how many kinds of tensors to tell.
    """
    step.run()
    times = [_seconds(step, device) for _ in range(repeats)]

    syncs = HostSyncs(device)
    stages = Stages(lambda: np.array([syncs.operations, syncs.total]))
    tensors = LargestTensors(lambda: stages.current)
    with watched(step.model, stages, step.methods), syncs, tensors, stages(REST):
        step.run()
    counts = stages.amounts()

    stages = Stages(lambda: 0, traced=True)
    with watched(step.model, stages, step.methods), profiler(device) as profiled:
        with stages(REST):
            step.run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    profiled.export_chrome_trace(str(trace))
    return Profile(
        seconds={name: statistics.median(t[name] for t in times) for name in times[0]},
        operators={name: int(count[0]) for name, count in counts.items()},
        waits={name: int(count[1]) for name, count in counts.items()},
        memory=memory_by_stage(read_events(trace), device),
        largest=tensors.largest(largest),
    )


def _seconds(step: Step, device: torch.device) -> dict[str, float]:
    read, difference = stage_clock(device)
    stages = Stages(read)
    with watched(step.model, stages, step.methods), stages(REST):
        step.run()
    return stages.amounts(difference)


def stage_table(profile: Profile) -> str:
    """A row for each stage, and their sum."""
    whole = sum(profile.seconds.values())
    rows = [
        _row(
            name,
            seconds,
            whole,
            profile.operators.get(name, 0),
            profile.waits.get(name, 0),
            [profile.memory.get(name, Memory())],
        )
        for name, seconds in sorted(profile.seconds.items(), key=lambda row: row[0] == REST)
    ]
    operators, waits = sum(profile.operators.values()), sum(profile.waits.values())
    rows.append(_row("sum", whole, whole, operators, waits, list(profile.memory.values())))
    headers = ["stage", "ms", "share", "operators", "waits", "peak MiB", "kept MiB"]
    return tabulate(
        rows, headers, tablefmt="github", disable_numparse=True, colalign=["left"] + ["right"] * 6
    )


def _row(
    name: str, seconds: float, whole: float, operators: int, waits: int, memory: Sequence[Memory]
) -> list[str]:
    peak = max((m.peak for m in memory), default=0) / MIB
    kept = sum(m.kept for m in memory) / MIB
    share = f"{100 * seconds / whole:.1f}%"
    numbers = [f"{operators}", f"{waits}", f"{peak:.1f}", f"{kept:.1f}"]
    return [name, f"{1e3 * seconds:.2f}", share, *numbers]


def tensor_table(profile: Profile) -> str:
    """A row for each kind of the largest tensors."""
    rows = [
        [
            f"{made.num_bytes / MIB:.1f}",
            count,
            "x".join(map(str, made.shape)),
            str(made.dtype).removeprefix("torch."),
            made.operator.removeprefix("aten::"),
            made.stage,
            made.place,
        ]
        for made, count in profile.largest
    ]
    headers = ["MiB", "made", "shape", "type", "operator", "stage", "place"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)
