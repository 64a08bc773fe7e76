"""The tables of `tools/benchmark.py cuda`, tried out on the CPU, and of `data`."""

import itertools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from co_detr.ops.ms_deform_attn import ms_deform_attn_reference

CPU = torch.device("cpu")
TINY_SHAPES = [(4, 5), (2, 3), (1, 2), (1, 1)]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    import benchmark

    return benchmark


@pytest.fixture
def benchmark_cuda(benchmark):
    from benchmarks import cuda

    return cuda


@pytest.fixture
def benchmark_data(benchmark):
    from benchmarks import data

    return data


def test_both_sides_of_the_evaluation_measure_the_same(benchmark):
    from benchmarks.evaluation import comparisons

    (row,) = comparisons(images=20)
    ours = row.first[1]()
    assert 0 < ours.max() <= 1
    np.testing.assert_array_equal(ours, row.second[1]())


def test_the_bare_layers_are_all_that_heads_multiply(benchmark):
    """Convolutions and linear layers of both heads learn by them; what is between does not."""
    from benchmarks.auxiliary_heads import bare_layers
    from benchmarks.models import DIGITS_CONFIG, build_model

    model = build_model(DIGITS_CONFIG, CPU)
    bare_layers(model, CPU)()
    learned = {name for name, p in model.aux_heads.named_parameters() if p.grad.any()}
    multiplies = (torch.nn.Conv2d, torch.nn.Linear)
    expected = {
        f"{name}.{parameter}"
        for name, module in model.aux_heads.named_modules()
        if isinstance(module, multiplies)
        for parameter, _ in module.named_parameters(recurse=False)
    }
    # the 1x1 convolutions of the RPN, of hardly any time, are left out
    expected -= {
        name for name in expected if "objectness_logits" in name or "anchor_deltas" in name
    }
    assert learned == expected


def test_without_a_gpu_it_says_so(benchmark, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "cuda"])
    with pytest.raises(SystemExit) as stopped:  # with this message, status 1
        benchmark.main()
    assert stopped.value.code == "cuda: PyTorch finds no CUDA device here"


def test_the_whole_table(benchmark, benchmark_cuda, monkeypatch):
    from benchmarks import measuring

    monkeypatch.setattr(measuring, "peak_memory", lambda function, device: 7.0)
    monkeypatch.setattr(measuring, "MIN_REPEAT_TIME", 0.0)
    times = itertools.cycle([0.002, 0.006])  # ours, the other
    monkeypatch.setattr(benchmark_cuda, "_time_call", lambda call, device: (call(), next(times))[1])
    workload = benchmark_cuda.Workload(
        shapes=TINY_SHAPES,
        num_queries=6,
        heads=2,
        channels=4,
        image_size=(64, 96),
        num_boxes=2,
        config="co_dino/co_dino_digits",
    )
    title, header, _, *lines = benchmark_cuda.table(CPU, 1, workload).splitlines()
    assert title.startswith("cpu, torch ") and "1 repeats" in title
    columns = [cell.strip() for cell in header.split("|")]
    rows = [dict(zip(columns, (cell.strip() for cell in line.split("|")))) for line in lines]

    # encoder and decoder, three precisions, two directions, three comparisons, two caches
    assert len(rows) == 2 * 3 * 2 * 3 * 2 + 4
    assert sum("Co-DINO R50, 64x96" in line for line in lines) == 4
    measured = [[cell.strip() for cell in line.split("|")].count("7") for line in lines]
    assert measured.count(2) == 2 * 3 * 2 * 3 + 4  # the flush would count as the call's memory
    assert measured.count(0) == 2 * 3 * 2 * 3
    assert {row["B"] for row in rows} == {
        "reference",
        "compiled reference",
        "ours, from locations",
        "reference attention",
    }
    assert [row["B / A"] for row in rows[:-4]] == ["3.00"] * (len(rows) - 4)


def test_calls_are_timed_in_turns(benchmark_cuda):
    calls = []
    comparison = benchmark_cuda.Comparison(
        "", ("ours", lambda: calls.append("A")), ("other", lambda: calls.append("B"))
    )
    times = benchmark_cuda.time_calls(comparison, 2, CPU, lambda: calls.append("flush"))
    assert "".join(call[0] for call in calls) == "AB" + 2 * "fAfB"  # the first two warm up
    assert [len(taken) for taken in times] == [2, 2]

    calls.clear()
    benchmark_cuda.time_calls(comparison, 1, CPU)  # each finds in the cache what it left there
    assert "".join(calls) == "AB" + "AABB"


def test_deformops_gets_what_it_asks_for(benchmark_cuda, monkeypatch):
    def msda(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
        assert level_start_index.tolist() == [0, 20, 26, 28]
        assert attention_weights.dtype == value.dtype
        shapes = [(h, w) for h, w in spatial_shapes.tolist()]
        output = ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)
        return output.unflatten(-1, (2, 4))

    registry = types.ModuleType("deformops.registry")
    registry.msda = msda
    monkeypatch.setitem(sys.modules, "deformops", types.ModuleType("deformops"))
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)
    value, locations, weights = benchmark_cuda.attention_inputs(TINY_SHAPES, 2, 4, 1, 6)
    function = benchmark_cuda.alternatives()["deformops"]
    torch.testing.assert_close(
        function(value.bfloat16(), TINY_SHAPES, locations, weights),
        ms_deform_attn_reference(value.bfloat16(), TINY_SHAPES, locations, weights.bfloat16()),
    )


def test_the_table_of_data(benchmark_data):
    threads, transform = torch.get_num_threads(), T.AugInput.transform
    title, header, _, *lines = benchmark_data.table(repeats=1, pictures=2).splitlines()
    assert title.startswith("2 pictures of 640x480, ") and "medians of 1 passes" in title
    columns = [cell.strip() for cell in header.split("|")]
    rows = [dict(zip(columns, (cell.strip() for cell in line.split("|")))) for line in lines]
    for name, row in zip(benchmark_data.PIPELINES, rows, strict=True):
        parts = [float(row[part]) for part in (*benchmark_data.PARTS, "rest")]
        assert sum(parts) == pytest.approx(float(row["ms"]), abs=0.05)
        assert float(row["cores for 20/s"]) == pytest.approx(float(row["ms"]) / 50, abs=0.01)
        assert float(row["decode"]) > 0 and float(row["resize"]) > 0
        assert (float(row["paste"]) > 0) == ("copy-paste" in name)
        assert (float(row["objects"]) > 0) == ("test" not in name)
    assert torch.get_num_threads() == threads and T.AugInput.transform is transform


def test_a_part_within_a_part_counts_for_the_outer_one(benchmark_data, monkeypatch):
    clock = iter([10.0, 13.0, 20.0, 21.0])
    monkeypatch.setattr(benchmark_data.time, "process_time", lambda: next(clock))
    watch = benchmark_data.Stopwatch()
    with watch.part("outer"), watch.part("inner"):
        pass
    with watch.part("inner"):
        pass
    assert watch.seconds == {"outer": 3.0, "inner": 1.0}
