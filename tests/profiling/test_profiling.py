"""Stages, memory, operators and tensors of steps that one can work out by hand."""

import argparse
import json

import pytest
import torch
from torch import nn

from co_detr.profiling.command import image_size, main
from co_detr.profiling.inputs import random_batch
from co_detr.profiling.report import REST, profile_step, stage_table
from co_detr.profiling.stages import Stages, parts_of, watched
from co_detr.profiling.steps import Step
from co_detr.profiling.tensors import LargestTensors
from co_detr.profiling.traces import memory_by_stage

CPU = torch.device("cpu")


class Clock:
    """Goes on only when told to."""

    def __init__(self):
        self.time = 0

    def __call__(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds


class Waiting(nn.Module):
    """Waits before and after it calls its part, if it has one."""

    def __init__(self, clock, before, after=0, part=None):
        super().__init__()
        self.clock, self.before, self.after, self.part = clock, before, after, part

    def forward(self):
        self.clock.wait(self.before)
        if self.part is not None:
            self.part()
        self.clock.wait(self.after)

    def inference(self):
        self.clock.wait(100)


# ---------------------------------------------------------------- stages


def test_an_inner_stage_interrupts_the_outer_one():
    clock = Clock()
    stages = Stages(clock)
    clock.wait(1000)  # before the first stage: nobody's
    with stages("outer"):
        clock.wait(1)
        with stages("inner"):
            clock.wait(2)
        clock.wait(4)
        with stages("inner"), stages("outer"):
            clock.wait(8)
    clock.wait(1000)  # between two stages
    with stages("later"):
        assert stages.current == "later"
        clock.wait(16)
    assert stages.current is None
    assert stages.amounts() == {"outer": 13, "inner": 2, "later": 16}


def test_a_stage_ends_with_an_error():
    clock = Clock()
    stages = Stages(clock)
    with pytest.raises(KeyError), stages("outer"), stages("inner"):
        clock.wait(1)
        raise KeyError
    assert stages.current is None and stages.amounts() == {"outer": 0, "inner": 1}


class Model(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.first = Waiting(clock, 1, 2, part=Waiting(clock, 4))
        self.heads = nn.ModuleDict({"a": Waiting(clock, 8), "b": Waiting(clock, 16)})

    def forward(self):
        self.clock.wait(32)
        self.first()
        for head in self.heads.values():
            head()
            head.inference()


def test_parts_of_a_model_and_listed_methods_are_stages():
    clock = Clock()
    model, stages = Model(clock), Stages(clock)
    assert list(parts_of(model)) == ["first", "heads.a", "heads.b"]
    with watched(model, stages, [(clock, "wait", "waiting")]):
        model.clock.wait(64)
    assert stages.amounts() == {"waiting": 64}

    stages = Stages(clock)
    with watched(model, stages), stages("rest"):
        clock.wait(128)
        model()
    # first calls another module, which is no part of the model, but of its part
    assert stages.amounts() == {
        "rest": 128,
        "model": 32,
        "first": 7,
        "heads.a": 108,
        "heads.b": 116,
    }
    before = stages.amounts()
    model()  # nothing watches any more
    assert stages.amounts() == before and "inference" not in vars(model.heads["a"])


# ---------------------------------------------------------------- memory of a trace


def stage(name, start, end):
    return {"cat": "user_annotation", "name": f"stage: {name}", "ts": start, "dur": end - start}


def memory(time, size, device_type=0):
    return {"name": "[memory]", "ts": time, "args": {"Bytes": size, "Device Type": device_type}}


def test_memory_is_followed_through_the_stages():
    events = [
        stage("forward", 10, 30),
        stage("attention", 15, 20),
        stage("backward", 30, 40),
        {"cat": "user_annotation", "name": "ProfilerStep#0", "ts": 0, "dur": 50},
        {"cat": "cpu_op", "name": "aten::mul", "ts": 16, "dur": 1},
        memory(5, 1),  # in no stage
        memory(12, 100),
        memory(16, 50),
        memory(17, 900, device_type=1),  # of a GPU
        memory(18, -20),
        memory(25, -10),
        memory(35, 300),
        memory(36, -420),
    ]
    found = memory_by_stage(events[::-1], CPU)
    assert {name: (m.peak, m.kept) for name, m in found.items()} == {
        None: (
            121,
            1,
        ),  # for no time at all, between forward and backward
        "forward": (131, 90),  # begins with 1, +100; after the attention 131 are in use, then 121
        "attention": (151, 30),
        "backward": (421, -120),
    }
    assert memory_by_stage(events, torch.device("cuda"))["attention"].peak == 900


# ---------------------------------------------------------------- tensors and operators


def test_the_largest_tensor_is_found_and_views_are_none():
    x = torch.ones(64, 2)
    with LargestTensors(lambda: "here", min_bytes=1) as tensors:
        x.t()[None].expand(1, 2, 64).add_(0)  # views, and a change in place
        for _ in range(2):
            y = x @ x.t()
        (y.view(-1)[:32] > 0).sum()
    (first, count), (second, _) = tensors.largest(2)
    assert (first.num_bytes, first.shape, first.operator) == (64 * 64 * 4, (64, 64), "aten::mm")
    assert count == 2 and first.stage == "here" and first.place == "backward"
    assert (second.num_bytes, second.dtype) == (32, torch.bool)
    assert sum(tensors.made.values()) == 4  # and the sum


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = Doubling()
        self.read = Reading()

    def forward(self, x):
        return self.read(self.twice(x).relu())


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * (x + 1)


class Reading(nn.Module):
    def forward(self, x):
        return x.sum().item()


def test_a_toy_step_by_hand(tmp_path):
    model, x = Toy(), torch.ones(512, 512)  # 1 MiB
    step = Step(model, lambda: model(x - 1))
    found = profile_step(step, CPU, tmp_path / "trace.json", repeats=2, largest=1)
    assert found.operators == {REST: 1, "model": 1, "twice": 2, "read": 2}
    assert found.waits == {REST: 0, "model": 0, "twice": 0, "read": 1}
    MIB = 2**20
    memory = {name: (m.peak // MIB, m.kept // MIB) for name, m in found.memory.items()}
    # x - 1 lives to the end; x + 1 lives until it is doubled; the double until it is rectified
    assert memory["twice"] == (3, 1) and memory["model"][0] == 3
    assert sum(m.kept for m in found.memory.values()) == 0
    assert found.largest[0][0].num_bytes == MIB
    assert found.seconds.keys() == found.operators.keys()
    assert min(found.seconds.values()) > 0
    assert "| sum " in stage_table(found)


# ---------------------------------------------------------------- the tool


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_tool_tells_every_stage_of_a_training_step(tmp_path, capsys):
    trace = tmp_path / "new folder" / "trace.json"
    config = "co_dino/co_dino_digits"
    options = ["--image-size", "64x96", "--repeats", "1", "--objects", "2", "--output", str(trace)]
    main(["--config-file", config, *options, "train.device=cpu"])
    text = capsys.readouterr().out
    table = text[text.index("| stage") : text.index("Stages are")].strip().splitlines()
    rows = {name: numbers for name, *numbers in map(cells, table[2:])}
    heads, sources = ["rcnn", "atss"], ["matching", "denoising", "customized"]
    assert set(rows) == {
        *("model", "backbone", "neck", "encoder", "proposals", "pyramid", "decoder", "criterion"),
        *(f"aux_heads.{name}" for name in heads),
        *(f"query_sources.{name}" for name in sources),
        *("criterion.matcher", "backward", "clip gradients", "optimizer", "the rest", "sum"),
    }
    total = rows.pop("sum")
    # every cell is rounded to 0.01 ms
    assert sum(float(r[0]) for r in rows.values()) == pytest.approx(float(total[0]), abs=0.1)
    assert sum(int(r[2]) for r in rows.values()) == int(total[2])
    assert int(rows["criterion.matcher"][3]) == 1  # costs go to the host at once
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"stage: decoder", "stage: backward"} <= names


def test_the_tool_tells_the_stages_of_inference(capsys):
    config = "co_deformable_detr/co_deformable_detr_digits"
    options = ["--inference", "--image-size", "64x64", "--repeats", "1"]
    main(["--config-file", config, *options, "train.device=cpu", "model.eval_branch=atss"])
    text = capsys.readouterr().out
    assert "| aux_heads.atss " in text
    assert "| decoder " not in text and "| backward " not in text


@pytest.mark.parametrize("text", ["640", "640x", "0x640", "axb"])
def test_image_sizes_that_are_none_are_refused(text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        image_size(text)
    assert image_size("800x1333") == (800, 1333)


def test_made_up_boxes_and_masks_lie_in_their_image():
    (example,) = random_batch(1, (40, 90), (5, 5), (4, 30), num_classes=2, masks=True)
    instances = example["instances"]
    boxes = instances.gt_boxes.tensor
    assert example["image"].shape == (3, 40, 90) and len(boxes) == 5
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 90 and boxes[:, 3].max() <= 40
    assert instances.gt_classes.max() < 2
    # the centres of the pixels within a square
    side = boxes[:, 2] - boxes[:, 0]
    assert ((instances.gt_masks.tensor.sum((1, 2)) - side**2).abs() <= 2 * side + 1).all()
