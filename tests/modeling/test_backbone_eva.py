"""EvaViT against reference features, its position encodings, and layer-wise learning rates."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from safetensors.torch import load_file, save_file

from co_detr.modeling.backbone.eva import (
    EVA02_LARGE,
    OFFICIAL_DROPS,
    OFFICIAL_RENAMES,
    OFFICIAL_TRANSFORMS,
    EvaViT,
    get_eva_lr_decay_rate,
)

DATA = Path(__file__).parents[1] / "data" / "eva_vit_tiny_features"
HEADS = {"global_any_size": 1, "lsj_fixed_size": 4}


def tiny(**options):
    torch.manual_seed(0)
    defaults = {"embed_dim": 64, "depth": 4, "num_heads": 4, "pretrained_grid": 4}
    defaults |= {"window_size": 4, "global_blocks": (2,), "size_divisibility": 16}
    return EvaViT(**defaults | options)


@pytest.fixture(scope="module")
def weights():
    result = {}
    for name, value in load_file(DATA / "weights.safetensors").items():
        if not name.startswith("backbone."):
            continue
        name = name.removeprefix("backbone.")
        for pattern, transform in OFFICIAL_TRANSFORMS:
            value = transform(value) if re.search(pattern, name) else value
        for pattern, replacement in OFFICIAL_RENAMES:
            if re.search(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        result[name] = value
    return result


@pytest.fixture(scope="module")
def features():
    return load_file(DATA / "features.safetensors")


@pytest.mark.parametrize(
    "case", ["global_any_size.square", "global_any_size.odd", "lsj_fixed_size.square"]
)
def test_features_equal_the_reference(weights, features, case):
    # "odd" has 7x5 tokens, so that windows of 4 are padded.
    backbone = tiny(num_heads=HEADS[case.split(".")[0]]).eval()
    backbone.load_state_dict(weights)
    outputs = {}
    for i in (0, 2):
        backbone.blocks[i].register_forward_hook(
            lambda module, inputs, output, i=i: outputs.update({i: output})
        )
    with torch.no_grad():
        maps = backbone((features[f"{case}.image_u8"].float() - 128) / 64)
    assert list(maps) == ["last_feat"]
    for i, output in outputs.items():
        torch.testing.assert_close(output[:1], features[f"{case}.block.{i}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps["last_feat"], features[f"{case}.backbone"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("use", "part", "side"),
    [
        ("global_any_size", "window", 4),
        ("lsj_fixed_size", "window", 4),
        ("lsj_fixed_size", "global", 8),
    ],
)
def testrotary_tables_equal_the_reference(features, use, part, side):
    table = tiny(num_heads=HEADS[use]).rotary_table(side, side, torch.device("cpu"))
    sine, cosine = table.chunk(2, dim=-1)
    torch.testing.assert_close(sine, features[f"rope.{use}.{part}.freqs_sin"], atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine, features[f"rope.{use}.{part}.freqs_cos"], atol=1e-6, rtol=0)


def testrotary_table_of_a_small_map_by_hand():
    # A head of 8 channels: two pairs turn by row, two by column, at speeds 1 and 1/100. On a map of
    # 2x4 tokens against a grid of 16, a row is 8 units and a column 4.
    table = tiny(embed_dim=32).rotary_table(2, 4, torch.device("cpu"))
    assert table.shape == (8, 16)
    row, column = 1, 3
    angles = [row * 8, row * 8, row * 0.08, row * 0.08]
    angles += [column * 4, column * 4, column * 0.04, column * 0.04]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(table[row * 4 + column], torch.tensor(expected))


def test_reference_tables_are_dropped_and_nothing_else():
    names = ["rope_win.freqs_cos", "rope_glb.freqs_sin", "blocks.11.attn.rope.freqs_cos"]
    assert all(any(re.search(p, name) for p in OFFICIAL_DROPS) for name in names)
    backbone = tiny()
    assert not any(re.search(p, name) for p in OFFICIAL_DROPS for name in backbone.state_dict())


def test_output_shape_and_padding_are_those_of_detectron2():
    backbone = tiny(size_divisibility=32, square_size=64)
    assert isinstance(backbone, Backbone)
    assert backbone.output_shape() == {"last_feat": ShapeSpec(channels=64, stride=16)}
    images = [torch.zeros(3, 40, 50)]
    square = ImageList.from_tensors(
        images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    )
    assert square.tensor.shape[-2:] == (64, 64)
    backbone = tiny(size_divisibility=32)
    padded = ImageList.from_tensors(
        images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    )
    assert padded.tensor.shape[-2:] == (64, 64)
    assert backbone.size_divisibility == 32


def test_windows_do_not_see_each_other_but_global_blocks_do():
    torch.manual_seed(0)
    image = torch.randn(1, 3, 128, 128)
    changed = image.clone()
    changed[:, :, :64, :64] += 1  # the upper left of four windows

    def reach(backbone):
        with torch.no_grad():
            difference = backbone(image)["last_feat"] - backbone(changed)["last_feat"]
        return (difference.abs().amax(1)[0] > 1e-6).unflatten(0, (2, 4)).unflatten(2, (2, 4))

    windowed = reach(tiny(global_blocks=()).eval()).any(3).any(1)
    assert windowed.tolist() == [[True, False], [False, False]]
    assert reach(tiny().eval()).all()


def test_full_size_on_the_meta_device():
    with torch.device("meta"):
        backbone = EvaViT(**EVA02_LARGE)
        maps = backbone(torch.empty(1, 3, 64, 96))
    assert maps["last_feat"].shape == (1, 1024, 4, 6)
    assert backbone.blocks[0].mlp.fc2.weight.shape == (1024, 2730)
    # Embeddings, then per block four projections, MLP, and three norms, then the last norm.
    block = 4 * 1024**2 + 3 * 1024 + 2 * (1024 + 1) * 2730 + (2730 + 1) * 1024
    block += 2 * (1024 + 1024 + 2730)
    expected = (3 * 256 + 1) * 1024 + 32 * 32 * 1024 + 24 * block + 2 * 1024
    assert sum(p.numel() for p in backbone.parameters()) == expected


def test_pretrained_weights_are_read_from_a_file(monkeypatch, tmp_path):
    create = timm.create_model
    size = {"embed_dim": 64, "depth": 4, "num_heads": 4}
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: create(name, **size, **kw))
    name = "eva02_large_patch14_448"
    torch.manual_seed(5)
    source = timm.create_model(name, img_size=64, patch_size=16).state_dict()
    save_file(source, tmp_path / "eva.safetensors")
    backbone = tiny(pretrained=name, pretrained_file=tmp_path / "eva.safetensors")
    own = backbone.state_dict()
    for key, value in source.items():
        if key.startswith("blocks."):
            assert torch.equal(own[key], value), key
    assert torch.equal(own["patch_embed.weight"], source["patch_embed.proj.weight"])
    # Token (row 2, column 3) of the 4x4 grid, after the class token.
    assert torch.equal(own["pos_embed"][0, 2, 3], source["pos_embed"][0, 1 + 2 * 4 + 3])


def test_drop_path_grows_linearly():
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for b in tiny(drop_path_rate=0.3).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_activation_checkpointing_gives_the_same_gradients():
    images = torch.randn(2, 3, 80, 48, generator=torch.Generator().manual_seed(0))
    gradients = []
    for activation_checkpointing in (False, True, 3):
        backbone = tiny(activation_checkpointing=activation_checkpointing, drop_path_rate=0.5)
        torch.manual_seed(7)
        backbone(images)["last_feat"].square().mean(1).max().backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters()})
    plain, *others = gradients
    for name, gradient, recomputed in ((n, g, o) for o in others for n, g in plain.items()):
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-4)
    assert plain["pos_embed"].abs().sum() > 0


def test_half_precision_stays_close_to_full_precision(weights, features):
    backbone = tiny(num_heads=1).eval()
    backbone.load_state_dict(weights)
    images = (features["global_any_size.odd.image_u8"].float() - 128) / 64
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        x = backbone(images)["last_feat"]
    difference = (x.float() - features["global_any_size.odd.backbone"]).abs()
    assert difference.mean() < 0.03


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("backbone.pos_embed", 0.8**25),
        ("backbone.patch_embed.weight", 0.8**25),
        ("backbone.blocks.0.norm1.weight", 0.8**24),
        ("backbone.blocks.23.mlp.fc2.bias", 0.8),
        ("backbone.output_norm.weight", 1.0),
        ("neck.levels.p2.1.weight", 1.0),
        ("encoder.blocks.0.weight", 1.0),
    ],
)
def test_learning_rates_decay_towards_the_input(name, factor):
    assert get_eva_lr_decay_rate(name) == pytest.approx(factor)


def test_learning_rates_of_every_parameter_as_the_solver_sees_them():
    from detectron2.solver.build import get_default_optimizer_params

    model = torch.nn.ModuleDict({"backbone": tiny(), "head": torch.nn.Linear(1, 1)})
    decay = partial(get_eva_lr_decay_rate, lr_decay_rate=0.5, num_layers=4)
    groups = get_default_optimizer_params(model, base_lr=1.0, lr_factor_func=decay)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[p]: group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    for name, rate in rates.items():
        block = re.match(r"backbone\.blocks\.(\d)", name)
        if block:
            assert rate == 0.5 ** (4 - int(block[1]))
        else:
            embedding = name.startswith(("backbone.pos_embed", "backbone.patch_embed"))
            assert rate == (0.5**5 if embedding else 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_blocks": (1, 4)}, "blocks 0 to 3"),
        ({"num_heads": 32}, "multiple of 4"),
        ({"size_divisibility": 24}, "size_divisibility=24"),
        ({"pretrained_file": "eva.pth"}, "pretrained_file needs"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_images_of_broken_patches_are_refused():
    with pytest.raises(ValueError, match="not whole patches of 16"):
        tiny()(torch.zeros(1, 3, 40, 32))
