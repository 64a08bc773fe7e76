"""Every config: it builds, is listed, follows its recipe, and its schedule and data work."""

import functools
import importlib.util
import json
import math
import pydoc
import re
from pathlib import Path

import pytest
import tiny_dataset
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from recipes import RECIPES
from zoo import RELEASES, meta_model

from co_detr import model_zoo
from co_detr.engine.build import build_optimizer
from co_detr.evaluation.evaluators import LVISEvaluator

ROOT = Path(__file__).parents[1]
NAMES = json.loads((ROOT / "tests/contract/package_names.json").read_text())
_spec = importlib.util.spec_from_file_location("analyze_model", ROOT / "tools/analyze_model.py")
analyze_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(analyze_model)

CONFIGS = model_zoo.list_configs()
DIGITS = [name for name in CONFIGS if "digits" in name]
TREES = [name for name in CONFIGS if "trees" in name]
FULL_SIZE = [name for name in CONFIGS if name not in DIGITS + TREES]


def zoo_rows():
    """The rows of MODEL_ZOO.md as {config: {column: cell}}."""
    rows = {}
    for line in (ROOT / "MODEL_ZOO.md").read_text().split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "Config":
            columns = cells
        elif line.startswith("| [") and (link := re.search(r"\(configs/(.+)\.py\)", cells[0])):
            rows[link[1]] = dict(zip(columns, cells))
    return rows


def test_every_config_has_a_row_in_the_model_zoo_and_a_recipe():
    assert set(zoo_rows()) == set(CONFIGS)
    assert set(RECIPES) == set(FULL_SIZE)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_builds_and_is_listed_as_it_is(name):
    row = zoo_rows()[name]
    parameters = list(meta_model(name).parameters())
    assert row["Params (M)"] == f"{sum(p.numel() for p in parameters) / 1e6:.1f}"
    assert float(row["GFLOPs"]) > 0
    released = {config: release for release, config in RELEASES.items()}
    assert row["Release"].strip("`-") == released.get(name, "")
    size = analyze_model.test_size(model_zoo.get_config(name)) or (128, 128)
    assert row["Input"] == "x".join(map(str, size))
    if name in RECIPES:
        assert row["Epochs"] == str(RECIPES[name].epochs)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_model_and_its_evaluation_follow_the_recipe(name):
    cfg, recipe = model_zoo.get_config(name), RECIPES[name]
    model = cfg.model
    assert model.num_classes == recipe.classes
    assert OmegaConf.select(model, "query_sources.matching.num_queries") == recipe.queries
    for head in model.get("aux_heads", {}).values():
        if OmegaConf.is_config(head) and "loss_weight" in head:
            alone = name.startswith("encoder_heads/")  # or beside six layers of a decoder
            assert instantiate(head.loss_weight) == (1.0 if alone else 12.0)
    assert OmegaConf.select(model, "query_sources.customized.weight") in (None, 1.0)
    denoising = OmegaConf.select(model, "query_sources.denoising")
    expected = denoising and (denoising.num_queries, denoising.box_noise)
    assert expected == recipe.denoising
    assert model.backbone.get("drop_path_rate") == recipe.drop_path
    assert model.get("mask_padding", True) is not recipe.canvas
    assert analyze_model.test_size(cfg) == recipe.test
    if "postprocess" in model:
        assert model.postprocess.max_detections == recipe.detections
    else:
        assert {h.detections_per_image for h in meta_model(name).aux_heads.values()} == {100}
    evaluator = cfg.dataloader.evaluator
    counted = recipe.detections if "lvis" in name else 100  # COCO's AP is that of 100 detections
    for part in [evaluator.boxes, evaluator.masks] if "boxes" in evaluator else [evaluator]:
        assert part.get("max_dets_per_image", 100) == counted
    assert cfg.train.ema.enabled == recipe.ema
    assert cfg.train.ema.decay == 1 - 1e-4
    assert cfg.train.clip_grad.enabled
    assert dict(cfg.train.clip_grad.params) == {"max_norm": 0.1, "norm_type": 2}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_schedule_is_as_long_as_the_training(name):
    cfg = model_zoo.get_config(name)
    schedule, length = instantiate(cfg.lr_multiplier), cfg.train.max_iter
    if name in DIGITS + TREES:
        warmup = (80 if name in TREES else 50) / length
        # half a cosine, which a straight line from 0.02 joins at the end of the warm-up
        joined = 0.51 + 0.49 * math.cos(math.pi * warmup)
        assert schedule(0.0) == pytest.approx(0.02)
        assert schedule(warmup / 2) == pytest.approx((0.02 + joined) / 2)
        assert schedule(warmup) == pytest.approx(joined)
        assert schedule(0.5) == pytest.approx(0.51)
        assert schedule(1 - 1e-9) == pytest.approx(0.02, abs=1e-3)
        return
    recipe = RECIPES[name]
    epoch = -(-recipe.images // recipe.batch)  # rounded up
    assert cfg.dataloader.train.total_batch_size == recipe.batch
    assert length == recipe.epochs * epoch
    assert cfg.train.eval_period == cfg.train.checkpointer.period == epoch
    for number, drop in enumerate(recipe.drops):
        before, after = (drop * epoch - 1) / length, drop * epoch / length
        assert schedule(before) == pytest.approx(0.1**number)
        assert schedule(after) == pytest.approx(0.1 ** (number + 1))
    assert schedule(1 - 1e-9) == pytest.approx(0.1 ** len(recipe.drops))
    assert schedule(0.0) == pytest.approx(0.01 if recipe.warmup else 1.0)
    assert schedule(recipe.warmup / length) == pytest.approx(1.0)
    if recipe.warmup:
        assert schedule(0.5 * recipe.warmup / length) == pytest.approx(0.505)


@pytest.mark.parametrize("name", TREES)
def test_the_trained_backbone_of_trees_learns_at_a_tenth_and_its_start_not_at_all(name):
    model = meta_model(name)
    optimizer = build_optimizer(cfg := model_zoo.get_config(name), model)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for key, parameter in model.named_parameters():
        if re.match(r"backbone\.model\.(conv_stem|blocks\.[012])\.", key):  # up to stride 8
            assert id(parameter) not in rates
            continue
        slow = key.startswith("backbone.") or "sampling_offsets" in key or "reference_points" in key
        factor = 0.1 if slow else 1.0
        assert rates.get(id(parameter)) == pytest.approx(cfg.optimizer.lr * factor), key


def decayed(name):
    """Layer-wise decay by 0.8 over the embeddings and 24 blocks."""
    if not name.startswith("backbone."):
        return 1.0
    if name.startswith(("backbone.pos_embed", "backbone.patch_embed")):
        return 0.8**25
    block = re.match(r"backbone\.blocks\.(\d+)\.", name)
    return 0.8 ** (24 - int(block[1])) if block else 1.0


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_parameter_learns_at_its_rate(name):
    recipe, model = RECIPES[name], meta_model(name)
    optimizer = build_optimizer(model_zoo.get_config(name), model)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    seen = set()
    for group in optimizer.param_groups:
        assert group["weight_decay"] == recipe.weight_decay
        for parameter in group["params"]:
            key = names[id(parameter)]
            if recipe.slow is None:
                factor = decayed(key)
            else:
                factor = 0.1 if any(part in key for part in recipe.slow) else 1.0
            assert group["lr"] == pytest.approx(recipe.lr * factor), key
            seen.add(key)
    assert seen == {key for key, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def two_pictures(tmp_path_factory):
    """Two pictures in the format that a config reads, with as many classes as it has."""
    known = {}

    def register(cfg):
        evaluator = cfg.dataloader.evaluator
        target = evaluator.get("boxes", evaluator)._target_
        key = cfg.model.num_classes, target is LVISEvaluator
        if key not in known:
            known[key] = tiny_dataset.register(tmp_path_factory.mktemp("data") / "pictures", *key)
        return known[key]

    return register


@pytest.mark.parametrize("name", CONFIGS)
def test_the_data_block_gives_examples_and_an_evaluator(name, two_pictures):
    cfg = model_zoo.get_config(name)
    tiny_dataset.use(cfg, two_pictures(cfg))
    example = instantiate(cfg.dataloader.train).dataset[0]
    assert len(example["instances"]) <= 2  # with copy-paste there may be a second one
    masks = "instance_mask" in cfg.model or "mask_r" in name
    assert example["instances"].has("gt_masks") == masks

    (test_example,) = next(iter(instantiate(cfg.dataloader.test)))
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.reset()
    if name in DIGITS:
        assert example["image"].shape[-2:] == test_example["image"].shape[-2:] == (40, 60)
        return
    if name in TREES:
        assert tuple(example["image"].shape) == (3, 448, 448)
        assert tuple(test_example["image"].shape) == (3, 299, 448)
        return
    recipe = RECIPES[name]
    if recipe.canvas:
        assert tuple(example["image"].shape[-2:]) == recipe.test
    short, long = recipe.test  # the picture is one and a half times as wide as high
    scale = min(short / 40, long / 60)
    assert tuple(test_example["image"].shape[-2:]) == (round(40 * scale), round(60 * scale))


BLOCK = "detectron2.modeling.backbone.resnet.BasicBlock"
"""The one name in configs that is in a module of detectron2, not in a package; upstream has it."""


def assert_same(saved, cfg):
    """A config as it was loaded from its saved form against the one that was saved."""
    if isinstance(cfg, dict):
        assert set(saved) == set(cfg)
        for key in set(cfg) - {"_target_"}:
            assert_same(saved[key], cfg[key])
        if callable(cfg.get("_target_")):
            # as detectron2 finds it: an attribute where a function is called like its module
            assert pydoc.locate(saved["_target_"]) == cfg["_target_"]
            assert_upstream_has(saved["_target_"])
    elif isinstance(cfg, list):
        assert len(saved) == len(cfg)
        for one, other in zip(saved, cfg):
            assert_same(one, other)
    elif isinstance(cfg, functools.partial):
        assert (saved.func, saved.args, saved.keywords) == (cfg.func, cfg.args, cfg.keywords)
    else:
        assert saved == cfg and type(saved) is type(cfg)


def assert_upstream_has(name):
    if name.startswith("detectron2.") and name != BLOCK:
        package = max((known for known in NAMES if name.startswith(f"{known}.")), key=len)
        assert name.removeprefix(f"{package}.").split(".")[0] in NAMES[package]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_config_is_the_config(name, tmp_path):
    cfg = model_zoo.get_config(name)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    path = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(path))
    saved = LazyConfig.load(str(path))
    unresolved = [OmegaConf.to_container(config, resolve=False) for config in (saved, cfg)]
    assert_same(*unresolved)
    for python_name in re.findall(r"!!python/name:(\S+)", path.read_text()):
        assert_upstream_has(python_name)
