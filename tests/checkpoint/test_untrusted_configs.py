"""A config in a file that nobody vouches for builds modules of detectors, and nothing else."""

import importlib
import inspect
import pkgutil
import subprocess

import pytest
import torch
import yaml
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import BottleneckBlock
from omegaconf import OmegaConf
from torch import nn

import co_detr.modeling
from co_detr import load_detector, model_zoo
from co_detr.checkpoint.model_card import model_text
from co_detr.checkpoint.pretrained import READS_WEIGHTS, without_pretrained
from co_detr.checkpoint.safe_config import UnsafeConfigError, allowed_object, read_model_config
from co_detr.config_text import LOCATE, plain


def refused(tree, match):
    text = tree if isinstance(tree, str) else yaml.safe_dump(tree)
    with pytest.raises(UnsafeConfigError, match=match) as raised:
        read_model_config(text, "found.pth")
    assert "found.pth" in str(raised.value) and "config_file=" in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "pickle.loads",
        "eval",
        "",
        # by what an allowed module has imported
        "co_detr.modeling.os.system",
        "co_detr.modeling.backbone.swin.timm.create_model",
        "co_detr.modeling.backbone.initial_weights.read_tensors",
        "co_detr.modeling.backbone.initial_weights.Path",
        "co_detr.modeling.detector.nn.Linear",
        "torch.nn.modules.module.torch.load",
        "torch.nn.modules.module.functools.partial",
        "torch.nn.functional.torch.load",
        "detectron2.modeling.backbone.resnet.np.load",
        "timm.models._hub.load_state_dict_from_hf",
        "timm.models._helpers.load_checkpoint",
        "timm.models.load_checkpoint",
        # functions, methods and what is no class
        "torch.nn.init.zeros_",
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.Module.register_module",
        "torch.nn.Linear.__init__.__globals__",
        "torch.nn.Linear.__class__",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn",
        "timm.create_model",
        "timm.models.create_model",
        "timm.models.resnet50",
        "detectron2.modeling.build_model",
        "detectron2.modeling.build_backbone",
        "detectron2.modeling.META_ARCH_REGISTRY.get",
        "detectron2.modeling.mmdet_wrapper.MMDetBackbone",
        "co_detr.modeling.detector.CoDETR.load_state_dict",
        # names that are none
        "co_detr.modeling..detector.CoDETR",
        "co_detr.modeling.detector.CoDETR.",
        "co_detr.modeling.../../os.system",
        "co_detr.modeling.detector:CoDETR",
        " co_detr.modeling.detector.CoDETR",
        "co_detr.modeling_extra.detector.CoDETR",
        "co_detr.config.bind",
        "co_detr.modeling.no_such_module.Thing",
        "co_detr.modeling.detector.NoSuchThing",
        "detectron2.config.LazyConfig.load",
        LOCATE,
    ],
)
def test_what_is_no_module_of_a_detector_is_refused_by_its_name(name):
    assert allowed_object(name) is None
    call = {"_target_": name, "command": "true"}
    shown = repr(name).replace(".", r"\.")
    refused(call, rf"{shown} in model,")
    # wherever it stands, also where `instantiate` would not look
    head = {"_target_": "torch.nn.Sequential"}
    refused(head | {"parts": [{"deep": [call]}]}, rf"{shown} in model\.parts\.0\.deep\.0,")
    refused(head | {"block": {"_target_": LOCATE, "name": name}}, rf"{shown} in model\.block,")


def test_nothing_is_called_before_all_is_looked_at(monkeypatch):
    monkeypatch.setattr(nn.Linear, "__init__", lambda *_, **__: pytest.fail("was called"))
    first = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    refused(
        {"_target_": "torch.nn.Sequential", "a": first, "b": {"_target_": "os.system"}}, "os.sy"
    )


@pytest.mark.parametrize("target", [{"_target_": "os.system"}, ["os.system"], 3, None, "${.name}"])
def test_a_target_is_a_name_and_nothing_else(target):
    refused({"_target_": target, "name": "torch.nn.Identity"}, "_target_|os.system|None|3|name")


@pytest.mark.parametrize("key", ["_recursive_", "_partial_", "_convert_", "_args_", "__class__"])
def test_keys_that_steer_the_building_are_refused(key):
    refused({"_target_": "torch.nn.Identity", "inner": {key: False}}, f"'{key}' in inner")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "${oc.decode:${oc.env:HOME}}",
        "${oc.create:{_target_: os.system}}",
        "${..x.${oc.env:HOME}}",
        "${eval:1}",
        "${other}",
        "and ${.other}",
        "\\${.other}",
    ],
)
def test_interpolations_lead_to_another_place_of_the_config_alone(text):
    refused({"_target_": "torch.nn.Identity", "x": text, "other": 1}, "asks for")


def test_interpolations_stand_for_values_and_not_for_calls():
    call = {"_target_": "torch.nn.Identity"}
    refused(call | {"a": "${.b}", "b": dict(call)}, "whole section")
    refused(call | {"a": "${.b}", "b": [dict(call)]}, "whole section")
    # doubling: 2 ** n values from n lines
    refused(call | {"a": "${.b}", "b": ["${.c}", "${.c}"], "c": [1]}, "whole section")
    refused(call | {"a": "${.b}", "b": "${.a}"}, "cannot be read")
    refused(call | {"a": "${...b}"}, "cannot be read")
    cfg = read_model_config(yaml.safe_dump(call | {"a": "${.b}", "b": [1, "res3"]}), "x")
    assert list(cfg.a) == [1, "res3"]


@pytest.mark.parametrize(
    "text",
    [
        "_target_: torch.nn.Identity\nx: !!python/object/apply:os.system [true]",
        "_target_: torch.nn.Identity\nx: !!python/name:os.system",
        "_target_: !!python/name:torch.nn.Identity",
        "_target_: torch.nn.Identity\nx: !!python/object/apply:pathlib.Path [a]",
        "_target_: torch.nn.Identity\nx: &a [1]\ny: *a",
        "_target_: torch.nn.Identity\nx: 2020-01-01",
        "_target_: torch.nn.Identity\nx: !!binary AAAA",
        "_target_: torch.nn.Identity\n3: x",
        "_target_: torch.nn.Identity\nx: [",
        "- torch.nn.Identity",
        "",
        "x: " + "[" * 5000,
        "_target_: torch.nn.Identity\nx: " + "a" * 2**20,
    ],
)
def test_only_plain_yaml_of_a_call_is_read(text):
    refused(text, "its model config")


BACKBONE = "co_detr.modeling.backbone.timm_backbone.TimmBackbone"


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"pretrained": True}, "True read or fetched by backbone.pretrained"),
        ({"checkpoint_path": "/etc/passwd"}, "'/etc/passwd' read or fetched"),
        ({"pretrained_file": "/etc/passwd"}, "read or fetched"),
        ({"pretrained_cfg_overlay": {"file": "x"}}, "read or fetched"),
        ({"model_options": {"checkpoint_path": "x"}}, "backbone.model_options.checkpoint_path"),
        ({"pretrained": "${..depth}"}, "18 read or fetched"),
        ({"model_name": "hf-hub:someone/resnet18"}, "'hf-hub:someone/resnet18' as the name"),
        ({"model_name": "local-dir:/tmp/model"}, "as the name of a timm model"),
        ({"model_name": "../model"}, "as the name of a timm model"),
        ({"model_name": ["resnet18"]}, "as the name of a timm model"),
        ({"cfg": {"MODEL": {}}}, "the argument 'cfg' in backbone"),
    ],
)
def test_no_other_file_is_read_or_fetched(arguments, match):
    backbone = {"_target_": BACKBONE, "model_name": "resnet18"} | arguments
    refused({"_target_": "torch.nn.Identity", "depth": 18, "backbone": backbone}, match)


def test_every_argument_that_names_a_file_is_known():
    """A new one has to be added to `READS_WEIGHTS`, or found harmless here."""
    found = set()
    for info in pkgutil.walk_packages(co_detr.modeling.__path__, "co_detr.modeling."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__:
                found |= {
                    name
                    for name in inspect.signature(value.__init__).parameters
                    if any(
                        word in name for word in ("pretrain", "path", "file", "url", "checkpoint")
                    )
                }
    harmless = {"pretrained_grid", "activation_checkpointing", "num_checkpointed"}
    harmless |= {
        "pretrained_patch_size",
        "pretrained_window",
        "drop_path_rate",
        "drop_path",
        "drop_paths",
    }
    assert found - harmless == set(READS_WEIGHTS)


def test_a_model_with_initial_weights_is_written_without_them():
    cfg = OmegaConf.create({"_target_": BACKBONE, "model_name": "resnet18", "pretrained": True})
    cfg.checkpoint_path, cfg.pretrained_cfg_overlay = "absent.pth", {"file": "absent.pth"}
    wrapped = OmegaConf.create({"_target_": "torch.nn.Sequential", "a": [{"b": cfg}]})
    read = read_model_config(model_text(wrapped), "x").a[0].b
    assert (read.pretrained, read.checkpoint_path, read.pretrained_cfg_overlay) == (False,) + (
        None,
    ) * 2
    assert wrapped.a[0].b.pretrained  # the config itself is left as it is
    assert instantiate(read).output_shape()["res5"].channels == 512


def resolved(model):
    return plain(OmegaConf.to_container(model, resolve=True), "")


def test_every_config_of_the_zoo_comes_back_as_it_was():
    seen = set()
    for name in model_zoo.list_configs():
        model = model_zoo.get_config(name).model
        text = model_text(model)
        if text in seen:
            continue
        seen.add(text)
        read = read_model_config(text, name)
        assert resolved(read) == resolved(without_pretrained(model)), name
    assert len(seen) > 50


def test_what_comes_back_is_built_and_still_changed_in_one_place():
    model = model_zoo.get_config("co_dino/co_dino_digits").model
    read = read_model_config(model_text(model), "x")
    read.num_classes = 3
    built = instantiate(read)
    model.num_classes = 3
    expected = instantiate(model).state_dict()
    assert {n: t.shape for n, t in built.state_dict().items()} == {
        n: t.shape for n, t in expected.items()
    }


def test_classes_as_values_are_looked_at_like_targets():
    make = "detectron2.modeling.ResNet.make_stage"
    name = "detectron2.modeling.backbone.resnet.BottleneckBlock"
    tree = {"_target_": make, "block_class": {"_target_": LOCATE, "name": name}}
    assert read_model_config(yaml.safe_dump(tree), "x").block_class is BottleneckBlock
    tree["block_class"]["more"] = 1
    refused(tree, "locate' in model.block_class")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("torch.nn.Linear", nn.Linear),
        ("torch.nn.modules.linear.Linear", nn.Linear),
        ("detectron2.layers.FrozenBatchNorm2d", None),
        ("timm.layers.LayerNorm2d", None),
        ("timm.models.resnet.ResNet", None),
        ("timm.models.ResNet", None),
    ],
)
def test_modules_of_the_libraries_are_allowed(name, expected):
    found = allowed_object(name)
    assert found is not None and issubclass(found, nn.Module)
    assert expected is None or found is expected


def test_a_file_with_a_hostile_config_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("was called"))
    card = {"config": "_target_: subprocess.Popen\nargs: [touch, x]", "image_format": "RGB"}
    torch.save({"model": {"a": torch.ones(1)}, "model_card": card}, tmp_path / "evil.pth")
    with pytest.raises(UnsafeConfigError, match=r"evil\.pth.*'subprocess\.Popen'"):
        load_detector(tmp_path / "evil.pth")
