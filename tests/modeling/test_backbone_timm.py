"""TimmBackbone: the same features as timm and torchvision, names, freezing, weights from files."""

import pytest
import timm
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from safetensors.torch import save_file

from co_detr.modeling.backbone.timm_backbone import TimmBackbone


@pytest.fixture(scope="module")
def resnet():
    """torchvision's ResNet-18 with BatchNorm statistics that matter."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 65, 50, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def torchvision_maps(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    maps = {}
    for i in (1, 2, 3, 4):
        x = maps[f"res{i + 1}"] = getattr(model, f"layer{i}")(x)
    return maps


def save_weights(model, folder, kind):
    path = folder / f"resnet18.{kind}"
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"model": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_resnet_features_equal_torchvisions_with_weights_from_a_file(
    resnet, images, tmp_path, kind
):
    backbone = TimmBackbone(
        model_name="resnet18", out_indices=4, checkpoint_path=save_weights(resnet, tmp_path, kind)
    ).eval()
    with torch.no_grad():
        maps = backbone(images)
    expected = torchvision_maps(resnet, images)
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    for name, x in maps.items():
        torch.testing.assert_close(x, expected[name], atol=1e-5, rtol=1e-5)


def test_output_shapes_are_those_of_detectron2():
    backbone = TimmBackbone(model_name="resnet18", size_divisibility=32)
    assert isinstance(backbone, Backbone)
    assert backbone.size_divisibility == 32
    assert backbone.output_shape() == {
        "res3": ShapeSpec(channels=128, stride=8),
        "res4": ShapeSpec(channels=256, stride=16),
        "res5": ShapeSpec(channels=512, stride=32),
    }


def test_out_indices_choose_the_maps():
    backbone = TimmBackbone(model_name="resnet18", out_indices=[1, 3])
    assert list(backbone.output_shape()) == ["res2", "res4"]
    assert not any("layer4" in name for name in backbone.state_dict())


def test_channels_last_models_return_channels_first(images):
    torch.manual_seed(0)
    options = {"strict_img_size": False, "embed_dim": 12, "depths": (1, 1, 1, 1)}
    options |= {"num_heads": (1, 1, 2, 2)}
    backbone = TimmBackbone(
        model_name="swin_tiny_patch4_window7_224", out_indices=2, model_options=options
    ).eval()
    images = images[:, :, :64, :48]
    with torch.no_grad():
        maps = backbone(images)
        raw = backbone.model(images)
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "res4": (2, 48, 4, 3),
        "res5": (2, 96, 2, 2),
    }
    assert torch.equal(maps["res5"][1, 7, 0, 1], raw[1][1, 0, 1, 7])


def test_maps_of_one_stride_need_names():
    options = {"img_size": 32, "embed_dim": 8, "depth": 3, "num_heads": 2}
    arguments = {"model_name": "vit_tiny_patch16_224", "model_options": options, "out_indices": 2}
    with pytest.raises(ValueError, match="out_names"):
        TimmBackbone(**arguments)
    with pytest.raises(ValueError, match="must name the 2 maps"):
        TimmBackbone(**arguments, out_names=["one"])
    backbone = TimmBackbone(**arguments, out_names=["early", "late"])
    assert backbone.output_shape()["late"] == ShapeSpec(channels=8, stride=16)
    assert list(backbone(torch.zeros(1, 3, 32, 32))) == ["early", "late"]


# By default timm starts the last norm of each residual block at zero, which blocks the gradient.
ALL_WEIGHTS_COUNT = {"zero_init_last": False}


def train_one_step(backbone, images):
    """Names of parameters and buffers that a training step changes."""
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(x.pow(2).mean() for x in backbone(images).values()).backward()
    optimizer.step()
    return {n for n, value in backbone.state_dict().items() if not torch.equal(value, before[n])}


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [(0, ()), (1, ("conv1", "bn1")), (2, ("conv1", "bn1", "layer1"))],
)
def test_frozen_stages_do_not_change_in_training_and_all_others_do(freeze_at, frozen, images):
    torch.manual_seed(0)
    backbone = TimmBackbone(
        model_name="resnet18", freeze_at=freeze_at, model_options=ALL_WEIGHTS_COUNT
    )
    changed = train_one_step(backbone, images)
    # Statistics of the frozen BatchNorms included: they stay in evaluation mode.
    assert changed == {name for name in backbone.state_dict() if name.split(".")[1] not in frozen}


def test_frozen_norm_is_constant_in_training_while_convolutions_learn(images):
    torch.manual_seed(0)
    backbone = TimmBackbone(
        model_name="resnet18", frozen_norm=True, model_options=ALL_WEIGHTS_COUNT
    )
    changed = train_one_step(backbone, images)
    # All that is left to learn are the convolutions, including those of the shortcuts.
    assert changed == {name for name, parameter in backbone.named_parameters()}
    assert changed == {
        name for name in backbone.state_dict() if "conv" in name or "downsample.0" in name
    }


def test_freezing_keeps_parameters_beside_the_stages(images):
    options = {"img_size": 32, "embed_dim": 8, "depth": 3, "num_heads": 2}
    backbone = TimmBackbone(
        model_name="vit_tiny_patch16_224",
        out_indices=[2],
        out_names=["last"],
        freeze_at=4,
        drop_path_rate=0.5,
        model_options=options,
    )
    assert not any(p.requires_grad for p in backbone.parameters())
    backbone.train()
    x = torch.randn(4, 3, 32, 32)
    # Stochastic depth of frozen blocks is off.
    assert torch.equal(backbone(x)["last"], backbone(x)["last"])


def test_freezing_below_the_finest_stride_is_refused():
    with pytest.raises(ValueError, match="finest stride of this model is 4"):
        TimmBackbone(model_name="convnext_atto", freeze_at=1)


def test_freezing_flattened_stages():
    backbone = TimmBackbone(model_name="convnext_atto", freeze_at=3)
    trainable = {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"stages_2", "stages_3"}


def test_drop_path_reaches_the_model():
    backbone = TimmBackbone(model_name="convnext_atto", drop_path_rate=0.3)
    rates = [m.drop_prob for m in backbone.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.3)


def test_activation_checkpointing_gives_the_same_gradients(images):
    torch.manual_seed(0)
    plain = TimmBackbone(model_name="resnet18", frozen_norm=True)
    checkpointed = TimmBackbone(
        model_name="resnet18", frozen_norm=True, activation_checkpointing=True
    )
    checkpointed.load_state_dict(plain.state_dict())
    for backbone in (plain, checkpointed):
        sum(x.pow(2).mean() for x in backbone(images).values()).backward()
    expected = dict(plain.named_parameters())
    for name, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-4)


def test_a_missing_checkpoint_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        TimmBackbone(model_name="resnet18", checkpoint_path="nowhere.pth")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    save_file({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="x.safetensors fit the model"):
        TimmBackbone(model_name="resnet18", checkpoint_path=tmp_path / "x.safetensors")
