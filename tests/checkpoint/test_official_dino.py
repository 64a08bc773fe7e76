"""Names and shapes of the released R50 Co-DINO weights against our models on the meta device."""

import gzip
import json

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from golden import CONFIGS, DATA
from omegaconf import OmegaConf

from co_detr.checkpoint.official import convert_official, official_table
from co_detr.checkpoint.rename import ConversionError, rename

RELEASES = {  # released config -> what differs from the common model
    "co_dino_5scale_r50_1x_coco": {},
    "co_dino_5scale_lsj_r50_1x_coco": {},
    "co_dino_5scale_lsj_r50_3x_coco": {},
    "co_dino_5scale_9encoder_lsj_r50_1x_coco": {"encoder.num_layers": 9},
    "co_dino_5scale_9encoder_lsj_r50_3x_coco": {"encoder.num_layers": 9},
    "co_dino_5scale_r50_1x_lvis": {"num_classes": 1203},
    "co_dino_5scale_lsj_r50_1x_lvis": {"num_classes": 1203},
}
R50 = "co_dino_5scale_r50_1x_coco"


def release(name):
    """A release without content: its state dict of meta tensors, and everything on record."""
    with gzip.open(DATA / "official_keys" / f"{name}.json.gz", "rt") as file:
        record = json.load(file)
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in record["state_dict"]}
    return state, record


def build_on_meta(**changes):
    cfg = LazyConfig.load(str(CONFIGS / "common/models/co_dino_r50.py")).model
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    with torch.device("meta"):
        return instantiate(cfg)


@pytest.mark.parametrize("name", RELEASES)
def test_names_and_shapes_equal_our_model(name):
    source, record = release(name)
    model = build_on_meta(**RELEASES[name])
    converted = convert_official(source, model)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in converted.items()} == expected
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == record["num_trainable_parameters"]


def test_names_of_what_only_dino_has():
    model = build_on_meta()
    report = dict(rename(release(R50)[0], official_table(model), model.state_dict())[1])
    transformer = "query_head.transformer."
    for theirs, ours in {
        "query_head.label_embedding.weight": "query_sources.denoising.label_embedding.weight",
        transformer + "query_embed.weight": "query_sources.matching.content.weight",
        transformer + "decoder.norm.weight": "decoder.norm.weight",
        transformer + "decoder.ref_point_head.0.weight": "decoder.position_mlp.0.weight",
        transformer + "decoder.ref_point_head.2.bias": "decoder.position_mlp.2.bias",
        transformer + "aux_pos_trans_norm.1.bias": "query_sources.customized.encode.1.norm.bias",
        "neck.convs.3.conv.weight": "neck.convs.3.weight",
        "bbox_head.0.scales.5.scale": "aux_heads.atss.scales.5",
    }.items():
        assert report[theirs] == ours


def test_the_wrong_depth_is_refused():
    source, _ = release("co_dino_5scale_9encoder_lsj_r50_1x_coco")
    with pytest.raises(ConversionError, match=r"model lacks \(48\):\n  encoder.layers.6.attention"):
        convert_official(source, build_on_meta())
