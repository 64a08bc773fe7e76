"""Rows of the paper's tables that are one word of the command line: each has its effect."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from co_detr import model_zoo
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.engine.overrides import apply_overrides

ZOO = (Path(__file__).parents[1] / "MODEL_ZOO.md").read_text()
ONE_HEAD = "co_deformable_detr/deformable_detr_digits_atss"
TWO_HEADS = "co_deformable_detr/co_deformable_detr_digits"
C = 64  # of the digits models


def listed():
    """(table, config, override) of every row of the section on overrides."""
    section = ZOO.split("\n## Overrides\n")[1].split("\n## ")[0]
    found = []
    for row in re.findall(r"^\| \d.*$", section, re.MULTILINE):
        table, configs, overrides, *_ = row.strip("| ").split(" | ")
        for config in re.findall(r"`(.+?)`", configs):
            for override in re.findall(r"`(.+?)`", overrides):
                found.append((table, f"co_deformable_detr/{config}", override.replace("'", "")))
    return found


def changed(name, *overrides):
    cfg = model_zoo.get_config(name)
    assert apply_overrides(cfg, overrides) == []  # no warnings
    return cfg


def build(name, *overrides):
    torch.manual_seed(0)
    return instantiate(changed(name, *overrides).model)


def losses(name, *overrides):
    model = build(name, *overrides).train()
    torch.manual_seed(1)
    truth = Instances((64, 64))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 50], [30, 4, 60, 60]]))
    truth.gt_classes = torch.tensor([3, 9])
    return model([{"image": 255 * torch.rand(3, 64, 64), "instances": truth}] * 2)


def test_tables_that_need_overrides_are_listed():
    assert {int(table.split()[0]) for table, *_ in listed()} == {7, 9, 11, 12, 13}


@pytest.mark.parametrize("table, name, override", listed())
def test_what_the_model_zoo_lists_applies(table, name, override):
    model = without_pretrained(changed(name, override).model)
    with torch.device("meta"):
        instantiate(model)


@pytest.mark.parametrize(
    "override, part, factor",
    [
        ("model.lambda_1=0.25", "customized/", 0.25),
        ("model.lambda_1=2.0", "customized/", 2.0),
        ("model.lambda_2=1.0", "atss/", 0.5),
        ("model.lambda_2=3", "atss/", 1.5),
    ],
)
def test_lambdas_multiply_the_losses_they_are_for(override, part, factor):
    usual, now = losses(ONE_HEAD), losses(ONE_HEAD, override)
    assert usual.keys() == now.keys() and any(name.startswith(part) for name in usual)
    for name, loss in usual.items():
        expected = factor * loss if name.startswith(part) else loss
        torch.testing.assert_close(now[name], expected, msg=name)


def test_heads_weigh_lambda_2_for_each_layer_of_the_decoder():
    heads = build(TWO_HEADS, "model.decoder.num_layers=3", "model.lambda_2=0.5").aux_heads
    assert heads["rcnn"].loss_weight == heads["atss"].class_loss_weight == 1.5
    assert heads["atss"].box_loss_weight == 3.0  # a GIoU loss of weight 2


@pytest.mark.parametrize("num_convs", [0, 1, 2, 5])
def test_stacked_convolutions_by_hand(num_convs):
    head = build(ONE_HEAD, f"model.aux_heads.atss.num_convs={num_convs}").aux_heads["atss"]
    tower = num_convs * (C * C * 3 * 3 + 2 * C)  # without bias, with scale and shift of the norm
    predictors = (10 + 4 + 1) * (C * 3 * 3 + 1)  # class, box, centerness
    assert (
        sum(p.numel() for p in head.parameters()) == 2 * tower + predictors + 4
    )  # a scale a level


@pytest.mark.parametrize(
    "override, gone", [("aux_losses=False", "atss/"), ("customized_queries=False", "customized/")]
)
def test_components_are_switched_off(override, gone):
    usual, now = losses(ONE_HEAD), losses(ONE_HEAD, f"model.{override}")
    assert set(now) == {name for name in usual if not name.startswith(gone)} != set(usual)


@pytest.mark.parametrize(
    "overrides, heads",
    [
        (["model.aux_heads=null"], []),
        (["model.aux_heads.rcnn=null"], ["atss"]),
        (["model.aux_heads.atss=null"], ["rcnn"]),
        (["model.aux_heads.atss2=${model.aux_heads.atss}"], ["rcnn", "atss", "atss2"]),
    ],
)
def test_k_changes_in_one_line(overrides, heads):
    model = build(TWO_HEADS, *overrides)
    assert list(model.aux_heads) == heads
    groups = {name.split("/")[1] for name in losses(TWO_HEADS, *overrides) if "customized/" in name}
    assert groups == set(heads)


def test_a_head_set_to_null_is_the_config_without_it():
    for override, other in (("model.aux_heads=null", "_k0"), ("model.aux_heads.rcnn=null", "_k1")):
        expected = losses(TWO_HEADS + other)
        assert set(losses(TWO_HEADS, override)) == set(expected)
        shapes = {n: p.shape for n, p in build(TWO_HEADS + other).named_parameters()}
        assert {n: p.shape for n, p in build(TWO_HEADS, override).named_parameters()} == shapes


def test_heads_of_the_same_kind_have_weights_of_their_own():
    heads = build(TWO_HEADS, "model.aux_heads.atss2=${model.aux_heads.atss}").aux_heads
    for one, other in zip(heads["atss"].parameters(), heads["atss2"].parameters()):
        assert one is not other


@pytest.mark.parametrize("branch", ["atss", "rcnn"])
def test_the_branch_that_is_evaluated(branch):
    model = build(TWO_HEADS, f"model.eval_branch={branch}").eval()
    image = 255 * torch.rand(3, 64, 64)
    with torch.no_grad():
        memory, sizes = model.encode([{"image": image}])
        (expected,) = model.aux_heads[branch].inference(model.pyramid(memory), sizes)
        (found,) = model([{"image": image}])
    assert torch.equal(found["instances"].scores, expected.scores[expected.pred_boxes.nonempty()])
