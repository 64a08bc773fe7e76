"""ChannelMapper against reference activations and numbers worked by hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from co_detr.modeling.neck import ChannelMapper

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def reference():
    folder = DATA / "co_deformable_detr_tiny"
    weights = load_file(folder / "weights.safetensors")
    neck = {
        name.removeprefix("neck.").replace(".conv.", ".").replace(".gn.", ".norm."): value
        for name, value in weights.items()
        if name.startswith("neck.")
    }
    return neck, load_file(folder / "inference.safetensors")


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
