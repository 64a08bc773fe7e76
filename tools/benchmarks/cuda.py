"""What `tools/benchmark.py cuda` measures: deformable attention and Co-DINO on one GPU.

The operator against the reference, the compiled reference, and the package `deformops` if it is
installed, in three precisions, with what the cache still holds from the call before and with a
flushed cache. Then training step and inference of the whole model against the reference.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from benchmarks.inputs import Shapes, attention_inputs, forward, forward_backward
from benchmarks.measuring import HEADERS, Comparison, synchronize, table_row, time_in_turns
from benchmarks.models import DINO_CONFIG, build_model, train_step, with_reference_attention
from tabulate import tabulate
from torch import Tensor

from co_detr.ops.ms_deform_attn import (
    ms_deform_attn,
    ms_deform_attn_from_offsets,
    ms_deform_attn_reference,
)
from co_detr.ops.ms_deform_attn.reference import locations_and_weights
from co_detr.profiling.inputs import random_batch

FLUSHED_BYTES = 2**28  # several times the L2 cache of any GPU


@dataclass(frozen=True)
class Workload:
    """What is measured: sizes of real use, or smaller ones to try the table out.

    Attributes:
        shapes: of the levels, in cells.
        num_queries: of the decoder.
        heads, channels: of the operator.
        image_size: (height, width) in pixels, for the model.
        num_boxes: per image.
        config: of the model.
    """

    shapes: Shapes
    num_queries: int
    heads: int
    channels: int
    image_size: tuple[int, int]
    num_boxes: int
    config: str = DINO_CONFIG


REAL = Workload(
    shapes=[(200, 334), (100, 167), (50, 84), (25, 42), (13, 21)],
    num_queries=1100,  # 900 to match, 200 to denoise
    heads=8,
    channels=32,
    image_size=(800, 1333),
    num_boxes=8,
)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def table(device: torch.device, repeats: int, workload: Workload = REAL) -> str:
    """The whole table, with the device's name above it."""
    torch.manual_seed(0)
    rows = operator_rows(device, repeats, workload) + model_rows(device, repeats, workload)
    head = f"{device_name(device)}, torch {torch.__version__}; {repeats} repeats of each side"
    return f"{head}, in turns\n{tabulate(rows, HEADERS, tablefmt='github', disable_numparse=True)}"


def operator_rows(device: torch.device, repeats: int, workload: Workload) -> list[list[str]]:
    size = FLUSHED_BYTES if device.type == "cuda" else 1
    cache = torch.empty(size, dtype=torch.uint8, device=device)
    rows = []
    for comparison in operator_comparisons(device, workload):
        for what, flush in (("", None), (", cache flushed", cache.zero_)):
            times = time_calls(comparison, repeats, device, flush)
            named = replace(comparison, what=comparison.what + what, memory=flush is None)
            rows.append(table_row(named, *times, device))
    return rows


def operator_comparisons(device: torch.device, workload: Workload) -> Iterator[Comparison]:
    """Ours against each alternative, for one layer of an encoder and one of a decoder."""
    decoder = f"decoder, Q={workload.num_queries}"
    for where, Q in (("encoder", None), (decoder, workload.num_queries)):
        with device:
            exact = attention_inputs(workload.shapes, workload.heads, workload.channels, 1, Q)
        value, locations, weights = exact
        from_offsets, from_locations = layer_functions(workload.shapes, locations)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            inputs = value.to(dtype), locations, weights
            low = [x.to(dtype) for x in exact]  # stand for offsets and logits, too
            name = f"{where}, {str(dtype).removeprefix('torch.')}"
            for direction, run in (("forward", forward), ("forward+backward", forward_backward)):
                for other, function in alternatives().items():
                    yield Comparison(
                        f"{name}: {direction}",
                        ("ours", run(ms_deform_attn, workload.shapes, *inputs)),
                        (other, run(function, workload.shapes, *inputs)),
                    )
                yield Comparison(
                    f"{name}, with softmax and locations: {direction}",
                    ("ours, one kernel", run(from_offsets, workload.shapes, *low)),
                    ("ours, from locations", run(from_locations, workload.shapes, *low)),
                )


def layer_functions(
    shapes: Shapes, locations: Tensor
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """What a layer does after its projections: by the second entry, and by the first."""
    centers = locations.mean((2, 4))
    scale = centers.new_tensor([(1 / w, 1 / h) for h, w in shapes]).expand_as(centers)

    def from_offsets(value: Tensor, shapes: Shapes, offsets: Tensor, logits: Tensor) -> Tensor:
        return ms_deform_attn_from_offsets(value, shapes, centers, scale, offsets, logits)

    def from_locations(value: Tensor, shapes: Shapes, offsets: Tensor, logits: Tensor) -> Tensor:
        samples = locations_and_weights(centers, scale, offsets, logits)
        return ms_deform_attn(value, shapes, *samples)

    return from_offsets, from_locations


def alternatives() -> dict[str, Callable[..., Tensor]]:
    """What else computes the same here, with the arguments of `ms_deform_attn`."""
    torch.compiler.reset()  # or it would give up on a function that is compiled so often
    found = {
        "reference": ms_deform_attn_reference,
        "compiled reference": torch.compile(ms_deform_attn_reference, dynamic=False),
    }
    try:
        from deformops.registry import msda
    except ImportError:
        return found

    def deformops(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        sizes, starts = _level_tensors(tuple(shapes), value.device)
        return msda(value, sizes, starts, locations, weights.to(value.dtype)).flatten(2)

    return found | {"deformops": deformops}


def _level_tensors(
    shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(height, width) and first row of each level, for operators that take tensors."""
    sizes = torch.tensor(shapes, device=device)
    areas = sizes.prod(1)
    return sizes, areas.cumsum(0) - areas


def time_calls(
    comparison: Comparison,
    repeats: int,
    device: torch.device,
    before: Callable[[], object] | None = None,
) -> tuple[list[float], list[float]]:
    """Seconds of each call of both sides, in turns; `before` runs ahead of each, and is not timed.

    On a GPU these are times of the GPU: the host, which may be slower, is ahead by then.
    """
    sides = comparison.first[1], comparison.second[1]
    for side in sides:  # compiles
        side()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, taken in zip(sides, times):
            if before is None:
                side()  # fills the cache
            else:
                before()
            taken.append(_time_call(side, device))
    return times


def _time_call(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        synchronize(device)
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def model_rows(device: torch.device, repeats: int, workload: Workload) -> list[list[str]]:
    return [
        table_row(comparison, *time_in_turns(comparison, repeats, device), device)
        for comparison in model_comparisons(device, workload)
    ]


def model_comparisons(device: torch.device, workload: Workload) -> Iterator[Comparison]:
    """Training step and inference of one image, with our operator and with the reference."""
    height, width = workload.image_size
    model = build_model(workload.config, device)
    boxes = (workload.num_boxes, workload.num_boxes)
    batch = random_batch(1, (height, width), boxes, sizes=(height / 20, height / 2))
    step = train_step(model, batch)

    def train() -> None:
        model.train()
        step()

    @torch.no_grad()
    def detect() -> None:
        model.eval()
        model(batch)

    for what, call in (("training step", train), ("inference", detect)):
        for precision, dtype in (("float32", None), ("bfloat16 autocast", torch.bfloat16)):
            run = call if dtype is None else torch.autocast(device.type, dtype)(call)
            yield Comparison(
                f"Co-DINO R50, {height}x{width}, {precision}: {what}",
                ("ours", run),
                ("reference attention", with_reference_attention(run)),
                memory=True,
            )
