"""The necks against reference activations and numbers worked by hand."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from co_detr.modeling.neck import OFFICIAL_RENAMES, ChannelMapper, SimpleFeaturePyramid

DATA = Path(__file__).parents[1] / "data"


def renamed(weights):
    """The neck's part of the reference weights under our names."""
    result = {}
    for name, value in weights.items():
        if not name.startswith("neck."):
            continue
        name = name.removeprefix("neck.")
        for pattern, replacement in OFFICIAL_RENAMES:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


@pytest.fixture
def reference():
    folder = DATA / "co_deformable_detr_tiny"
    return (
        renamed(load_file(folder / "weights.safetensors")),
        load_file(folder / "inference.safetensors"),
    )


def test_levels_equal_the_reference(reference):
    weights, tensors = reference
    neck = ChannelMapper(
        in_features=["fine", "middle", "coarse"], in_channels=[32, 64, 128], out_channels=64
    )
    neck.load_state_dict(weights, strict=True)
    names = ["fine", "middle", "coarse"]
    levels = neck({name: tensors[f"backbone.{i}"] for i, name in enumerate(names)})
    assert [tuple(level.shape[-2:]) for level in levels] == [(13, 16), (7, 8), (4, 4), (2, 2)]
    for i in (1, 2, 3):
        torch.testing.assert_close(levels[i], tensors[f"neck.{i}"], atol=1e-4, rtol=0)


def test_further_extra_levels_read_the_extra_level_before_them():
    torch.manual_seed(0)
    neck = ChannelMapper(
        in_features=["x"], in_channels=[3], out_channels=4, num_outs=3, num_groups=2
    )
    x = torch.randn(1, 3, 9, 8)
    mapped, first, second = neck({"x": x, "unused": torch.zeros(1)})
    assert torch.equal(mapped, neck.convs[0](x))
    assert torch.equal(first, neck.extra_convs[0](x))
    assert torch.equal(second, neck.extra_convs[1](first))
    assert second.shape == (1, 4, 3, 2)


def test_parameter_names_are_those_of_a_detectron2_conv():
    neck = ChannelMapper(in_features=["x"], in_channels=[8], out_channels=32, num_outs=2)
    assert set(neck.state_dict()) == {
        f"{conv}.0.{name}"
        for conv in ("convs", "extra_convs")
        for name in ("weight", "norm.weight", "norm.bias")
    }


def test_there_is_no_activation():
    neck = ChannelMapper(in_features=["x"], in_channels=[32], out_channels=32, num_outs=1)
    # GroupNorm centres each of its groups: with an activation nothing would be negative.
    assert neck({"x": torch.randn(1, 32, 4, 4)})[0].min() < -0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": ["a", "b"], "in_channels": [8]}, "pair up"),
        ({"in_features": [], "in_channels": []}, "non-empty"),
        ({"in_features": ["a", "b"], "in_channels": [8, 8], "num_outs": 1}, "num_outs=1"),
    ],
)
def test_inconsistent_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ChannelMapper(**options)


@pytest.fixture(scope="module")
def vit():
    folder = DATA / "eva_vit_tiny_features"
    return (
        renamed(load_file(folder / "weights.safetensors")),
        load_file(folder / "features.safetensors"),
    )


@pytest.mark.parametrize("case", ["square", "odd"])
def test_pyramid_equals_the_reference(vit, case):
    weights, tensors = vit
    neck = SimpleFeaturePyramid(in_channels=64, out_channels=32)
    neck.load_state_dict(weights, strict=True)
    levels = neck({"last_feat": tensors[f"global_any_size.{case}.backbone"], "other": None})
    assert len(levels) == 5
    for i, level in enumerate(levels):
        if i == 0 and case == "square":
            continue  # not recorded
        expected = tensors[f"global_any_size.{case}.neck.{i}"]
        torch.testing.assert_close(level, expected, atol=1e-4, rtol=0)


def test_each_level_of_the_pyramid_stands_alone(vit):
    weights, tensors = vit
    neck = SimpleFeaturePyramid(in_channels=64, out_channels=32, min_level=3, max_level=5)
    neck.load_state_dict({name: weights[name] for name in neck.state_dict()})
    levels = neck({"last_feat": tensors["global_any_size.odd.backbone"]})
    for i, level in zip((1, 2, 3), levels, strict=True):
        expected = tensors[f"global_any_size.odd.neck.{i}"]
        torch.testing.assert_close(level, expected, atol=1e-4, rtol=0)


def test_further_levels_continue_both_ways():
    neck = SimpleFeaturePyramid(in_channels=16, out_channels=8, min_level=1, max_level=7)
    levels = neck({"last_feat": torch.randn(1, 16, 5, 6)})
    assert [tuple(level.shape[-2:]) for level in levels] == [
        (40, 48),
        (20, 24),
        (10, 12),
        (5, 6),
        (3, 3),
        (2, 2),
        (1, 1),
    ]
    # Every level ends in a norm over the channels: mean 0, variance 1 in each cell.
    for level in levels:
        torch.testing.assert_close(level.mean(1), torch.zeros_like(level[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            level.var(1, unbiased=False), torch.ones_like(level[:, 0]), atol=1e-2, rtol=0
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_level": 5, "max_level": 4}, "min_level=5"),
        ({"in_channels": 6, "min_level": 2}, "multiple of 4"),
    ],
)
def test_impossible_pyramids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**options)
