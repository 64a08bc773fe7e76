"""SwinTransformer against reference features, timm, and numbers worked by hand."""

import re
from pathlib import Path

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from safetensors.torch import load_file, save_file

from co_detr.modeling.backbone.swin import (
    OFFICIAL_DROPS,
    OFFICIAL_RENAMES,
    SWIN,
    SwinTransformer,
    relative_position_index,
    shift_mask,
)

DATA = Path(__file__).parents[1] / "data" / "swin_tiny_features"
TINY = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 7}
ALL = ("res2", "res3", "res4", "res5")


def tiny(**options):
    torch.manual_seed(0)
    return SwinTransformer(**TINY | {"out_features": ALL, "drop_path_rate": 0.0} | options)


def converted(weights):
    """Official names to ours; every pattern is a whole-name rule, so the order does not matter."""
    result = {}
    for name, value in weights.items():
        if any(re.search(pattern, name) for pattern in OFFICIAL_DROPS):
            continue
        for pattern, replacement in OFFICIAL_RENAMES:
            if re.search(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        result[name] = value
    return result


@pytest.fixture(scope="module")
def weights():
    return converted(load_file(DATA / "weights.safetensors"))


@pytest.fixture(scope="module")
def features():
    return load_file(DATA / "features.safetensors")


def images_of(features, case):
    return (features[f"{case}.image_u8"].float() - 128) / 64


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_features_equal_the_reference_at_any_size(weights, features, case):
    # c has maps of 3x5 and 1x2 tokens, far smaller than the 7x7 window.
    backbone = tiny().eval()
    backbone.load_state_dict(weights)
    with torch.no_grad():
        maps = backbone(images_of(features, case))
    assert list(maps) == list(ALL)
    for i, x in enumerate(maps.values()):
        torch.testing.assert_close(x, features[f"{case}.out.{i}"], atol=1e-4, rtol=0)


def test_features_are_the_same_in_every_precision_of_arithmetic(weights, features):
    backbone = tiny().eval().double()
    backbone.load_state_dict(weights)
    with torch.no_grad():
        x = backbone(images_of(features, "a").double())["res5"]
    assert x.dtype == torch.float64
    torch.testing.assert_close(x.float(), features["a.out.3"], atol=1e-5, rtol=0)


def test_chosen_maps_are_those_of_the_whole_network(weights, features):
    backbone = tiny(out_features=("res4", "res3")).eval()
    own = backbone.state_dict()
    assert not any(name.startswith("layers.3.") for name in own)
    backbone.load_state_dict({name: weights[name] for name in own})
    with torch.no_grad():
        maps = backbone(images_of(features, "a"))
    assert list(maps) == ["res3", "res4"]
    torch.testing.assert_close(maps["res3"], features["a.out.1"], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps["res4"], features["a.out.2"], atol=1e-4, rtol=0)


def timm_swin(**options):
    return timm.create_model(
        "swin_tiny_patch4_window7_224", **{k: v for k, v in TINY.items()}, **options
    )


def test_stages_equal_timms_where_both_mean_the_same(tmp_path):
    # Maps of 112, 56, 28 and 14 tokens are whole windows and larger than one: no padding, and timm
    # shifts too.
    torch.manual_seed(3)
    reference = timm_swin(img_size=448).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    backbone = tiny().eval()
    own = {k: v for k, v in backbone.state_dict().items() if k.startswith("output_norms")}
    theirs = {
        k: v for k, v in reference.state_dict().items() if not k.startswith(("norm.", "head."))
    }
    backbone.load_state_dict(theirs | own)
    x = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        maps = backbone(x)
        expected = reference.forward_intermediates(x, intermediates_only=True)
    for name, raw in zip(ALL, expected):
        normalized = torch.nn.functional.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2])
        torch.testing.assert_close(maps[name], normalized.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["timm", "original release"])
def test_pretrained_weights_are_read_from_a_file(monkeypatch, tmp_path, layout):
    torch.manual_seed(5)
    source = timm_swin().state_dict()
    stored = dict(source)
    if layout == "original release":  # merging closes the stage before
        stored = {
            re.sub(
                r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k
            ): v
            for k, v in source.items()
        }
        stored = {k.replace("head.fc.", "head."): v for k, v in stored.items()}
        stored["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    save_file(stored, tmp_path / "swin.safetensors")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: create(name, **kw, **TINY))
    backbone = tiny(
        pretrained="swin_tiny_patch4_window7_224",
        pretrained_file=tmp_path / "swin.safetensors",
        out_features=("res2", "res4"),
    )
    for name, value in backbone.state_dict().items():
        if name.startswith("output_norms"):
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight"))))
        else:
            assert torch.equal(value, source[name]), name


def test_relative_positions_of_a_two_by_two_window():
    # Tokens (0,0), (0,1), (1,0), (1,1); an offset (dy, dx) has number 3 * (dy + 1) + (dx + 1).
    assert relative_position_index(2, torch.device("cpu")).tolist() == [
        [4, 3, 1, 0],
        [5, 4, 2, 1],
        [7, 6, 4, 3],
        [8, 7, 5, 4],
    ]


def test_shift_mask_separates_wrapped_rows_and_columns():
    # A 2x4 map in windows of 2, shifted by 1. Rolled, the second row is what was the first, and
    # the last column what was the first: the left window mixes two rows, the right one rows and
    # columns.
    mask = shift_mask(2, 4, 2, 1, torch.zeros(()))
    left = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    right = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
    assert torch.equal(mask, -100.0 * torch.tensor([left, right]))


def test_output_shapes_are_those_of_detectron2():
    backbone = tiny(out_features=("res3", "res5"))
    assert isinstance(backbone, Backbone)
    assert backbone.size_divisibility == 0
    assert backbone.output_shape() == {
        "res3": ShapeSpec(channels=16, stride=8),
        "res5": ShapeSpec(channels=64, stride=32),
    }


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 27.5), ("small", 48.8), ("base", 86.9), ("large", 195.2)]
)
def test_published_sizes_on_the_meta_device(size, millions):
    with torch.device("meta"):
        backbone = SwinTransformer(**SWIN[size], out_features=("res5",))
        maps = backbone(torch.empty(1, 3, 70, 90))
    assert maps["res5"].shape == (1, 8 * SWIN[size]["embed_dim"], 3, 3)
    # Those of the ImageNet models without classifier (28.3 M, 49.6 M, 87.8 M and 196.5 M with it);
    # windows of 12 instead of 7 have larger bias tables.
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("freeze_at", "trainable"),
    [
        (0, {"patch_embed", "layers.0", "layers.1", "layers.2", "layers.3", "output_norms.res2"}),
        (1, {"layers.0", "layers.1", "layers.2", "layers.3", "output_norms.res2"}),
        (3, {"layers.2", "layers.3"}),
    ],
)
def test_freezing_takes_gradient_and_randomness_from_the_first_stages(freeze_at, trainable):
    backbone = tiny(freeze_at=freeze_at, drop_path_rate=0.9).train()
    found = {
        re.match(r"patch_embed|layers\.\d|output_norms\.res\d", name)[0]
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    }
    norms = {f"output_norms.res{i}" for i in range(max(3, freeze_at + 1), 6)}
    assert found == trainable | norms
    in_training = [stage.training for stage in backbone.layers]
    assert in_training == [i + 2 > freeze_at for i in range(4)]


def test_drop_path_grows_linearly_over_all_blocks():
    backbone = tiny(depths=(1, 2, 1, 1), drop_path_rate=0.4)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0) for s in backbone.layers for block in s.blocks
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_activation_checkpointing_gives_the_same_gradients():
    images = torch.randn(2, 3, 40, 52, generator=torch.Generator().manual_seed(0))
    gradients = []
    for activation_checkpointing in (False, True, 3):
        backbone = tiny(activation_checkpointing=activation_checkpointing, drop_path_rate=0.5)
        torch.manual_seed(7)
        sum(x.pow(2).sum() for x in backbone(images).values()).backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters()})
    plain, *others = gradients
    for name, gradient, recomputed in ((n, g, o) for o in others for n, g in plain.items()):
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-5, rtol=1e-4)
    assert plain["patch_embed.proj.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_features": ("p3",)}, "out_features"),
        ({"num_heads": (1, 2)}, "num_heads"),
        ({"freeze_at": 6}, "freeze_at=6"),
        ({"num_heads": (3, 2, 4, 8)}, "8 channels do not divide into 3 heads"),
        ({"pretrained_file": "swin.pth"}, "pretrained_file needs"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)
