"""Memory by stage, read from a trace of `torch.profiler`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .stages import TRACED


@dataclass
class Memory:
    """What a stage does to the memory of a device, in bytes.

    Attributes:
        peak: most that was in use while the stage ran, above what was in use at first.
        kept: what it allocated less what it freed.
    """

    peak: int = 0
    kept: int = 0


def profiler(device: torch.device) -> profile:
    """A profiler whose trace `memory_by_stage` can read."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    return profile(activities=activities, profile_memory=True)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a Chrome trace file."""
    return json.loads(path.read_text())["traceEvents"]


def memory_by_stage(
    events: Sequence[Mapping[str, Any]], device: torch.device
) -> dict[str | None, Memory]:
    """Follow the allocator of a device through the stages of a trace.

    Memory that was there when the trace began counts as nothing, so a step that frees some of it
    may end below zero.

    Args:
        events: of a trace with memory; stages are those that `Stages` left in it.
        device: whose memory.

    Returns:
        by stage, None for what belongs to no stage.
    """
    device_type = 1 if device.type == "cuda" else 0  # as c10::DeviceType counts
    timeline: list[tuple[float, int, Any]] = []
    for event in events:
        if event.get("cat") == "user_annotation" and event["name"].startswith(TRACED):
            start, end = float(event["ts"]), float(event["ts"]) + float(event["dur"])
            timeline += [(start, 1, event["name"].removeprefix(TRACED)), (end, 0, None)]
        elif event["name"] == "[memory]" and event["args"]["Device Type"] == device_type:
            timeline.append((float(event["ts"]), 2, int(event["args"]["Bytes"])))
    timeline.sort(key=lambda moment: moment[:2])

    stages: dict[str | None, Memory] = {}
    running: list[str | None] = [None]
    in_use = 0
    for _, kind, value in timeline:
        if kind == 1:
            running.append(value)
        elif kind == 0:
            running.pop()
        else:
            in_use += value
        stage = stages.setdefault(running[-1], Memory(peak=in_use))
        stage.peak = max(stage.peak, in_use)
        stage.kept += value if kind == 2 else 0
    return stages
