"""Configs as upstream's `LazyConfig.save` writes them: calls by name, keys sorted."""

import copy

import pytest
import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import _convert_target_to_string
from golden import co_dino_config
from omegaconf import OmegaConf

from co_detr import model_zoo
from co_detr.config import to_cfg_node, to_lazy_config


def name_targets(content):
    """Replace each `_target_` by its name, as `detectron2.config` does before it saves."""
    if isinstance(content, dict):
        if callable(content.get("_target_")):
            content["_target_"] = _convert_target_to_string(content["_target_"])
        for value in content.values():
            name_targets(value)
    elif isinstance(content, list):
        for value in content:
            name_targets(value)


def saved(cfg, path):
    content = OmegaConf.to_container(copy.deepcopy(cfg), resolve=False)
    name_targets(content)
    path.write_text(yaml.dump(content, default_flow_style=None, allow_unicode=True, width=9999))
    return LazyConfig.load(str(path))


@pytest.mark.parametrize(
    "name",
    [
        "co_deformable_detr/co_deformable_detr_digits",  # a class as a value
        "co_dino/co_dino_r50_5scale_lsj_12ep",  # a function called like its module
        "co_dino/co_dino_vit_large_5scale_12ep",  # a partial function
    ],
)
def test_the_zoo_s_configs_load(name, tmp_path):
    cfg = saved(model_zoo.get_config(name), tmp_path / "config.yaml")
    expected = model_zoo.get_config(name)
    assert str(instantiate(cfg.dataloader.train.mapper.augmentations)) == str(
        instantiate(expected.dataloader.train.mapper.augmentations)
    )
    factor, wanted = (c.optimizer.params.lr_factor_func for c in (cfg, expected))
    assert factor("backbone.blocks.3.x") == wanted("backbone.blocks.3.x")
    assert instantiate(cfg.lr_multiplier)(0.5) == instantiate(expected.lr_multiplier)(0.5)
    again = to_lazy_config(to_cfg_node(cfg))
    assert again.model.num_classes == expected.model.num_classes
    assert instantiate(again.optimizer.params.lr_factor_func)("backbone.") == wanted("backbone.")


def test_the_model_is_the_same_but_for_the_order_of_its_parts(tmp_path):
    cfg = OmegaConf.create({"model": co_dino_config()}, flags={"allow_objects": True})
    loaded = saved(cfg, tmp_path / "config.yaml")
    assert list(loaded.model.query_sources) != list(cfg.model.query_sources)
    torch.manual_seed(0)
    model, again = instantiate(cfg.model).eval(), instantiate(loaded.model).eval()
    again.load_state_dict(model.state_dict())
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        found, same = (m([{"image": image}])[0]["instances"] for m in (model, again))
    assert len(found) > 0
    assert torch.equal(found.scores, same.scores)
    assert torch.equal(found.pred_boxes.tensor, same.pred_boxes.tensor)
