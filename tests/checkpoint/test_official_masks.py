"""Names and shapes of the released models with masks, on the meta device."""

import gzip
import json

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from golden import CONFIGS, DATA

from co_detr.checkpoint.official import convert_official, official_table
from co_detr.checkpoint.rename import ConversionError, rename


def release(name):
    with gzip.open(DATA / "official_keys" / f"{name}.json.gz", "rt") as file:
        entries = json.load(file)["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in entries}


RELEASES = {  # released config -> ours
    "co_deformable_detr_mask_r50_1x_coco": "co_deformable_detr/co_deformable_detr_mask_r50_12ep",
    "co_dino_5scale_vit_large_coco_instance": "co_dino/co_dino_vit_large_5scale_12ep_instance",
    "co_dino_5scale_lsj_vit_large_lvis_instance": (
        "co_dino/co_dino_vit_large_5scale_lsj_16ep_lvis_instance"
    ),
}


def load(name):
    return LazyConfig.load(str(CONFIGS / f"{RELEASES[name]}.py")).model


@pytest.fixture(scope="module")
def models():
    with torch.device("meta"):
        return {name: instantiate(load(name)) for name in RELEASES}


@pytest.mark.parametrize("name", RELEASES)
def test_names_and_shapes_equal_our_model(models, name):
    converted = convert_official(release(name), models[name])
    expected = {key: tuple(value.shape) for key, value in models[name].state_dict().items()}
    assert {key: tuple(value.shape) for key, value in converted.items()} == expected
    models[name].load_state_dict(converted, strict=True, assign=True)


@pytest.mark.parametrize(
    "name, theirs, ours",
    [
        (
            "co_deformable_detr_mask_r50_1x_coco",
            "roi_head.0.mask_head.convs.2.conv.bias",
            "aux_heads.rcnn.mask_head.convs.2.bias",
        ),
        (
            "co_deformable_detr_mask_r50_1x_coco",
            "roi_head.0.mask_head.conv_logits.weight",
            "aux_heads.rcnn.mask_head.predictor.weight",
        ),
        (
            "co_dino_5scale_vit_large_coco_instance",
            "mask_head.semantic_convs.1.norm_layer.bias",
            "instance_mask.mask_head.semantic_convs.1.norm.bias",
        ),
        (
            "co_dino_5scale_vit_large_coco_instance",
            "mask_head.stages.1.fuse_conv.1.dilation_conv_3.conv.weight",  # the dilation is 5
            "instance_mask.mask_head.stages.1.dilated.2.weight",
        ),
        (
            "co_dino_5scale_lsj_vit_large_lvis_instance",
            "mask_iou_head.fc_mask_iou.weight",
            "instance_mask.iou_head.predictor.weight",
        ),
    ],
)
def test_some_names_by_hand(models, name, theirs, ours):
    table = official_table(models[name])
    assert dict(rename(release(name), table, models[name].state_dict())[1])[theirs] == ours


def test_a_model_without_masks_refuses_weights_with_masks():
    cfg = load("co_deformable_detr_mask_r50_1x_coco")
    cfg.aux_heads.rcnn.mask_head = None
    with torch.device("meta"):
        model = instantiate(cfg)
    with pytest.raises(ConversionError, match=r"model lacks \(12\):\n  aux_heads.rcnn.mask_head"):
        convert_official(release("co_deformable_detr_mask_r50_1x_coco"), model)
