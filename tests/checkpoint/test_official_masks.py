"""Names and shapes of the released models with masks, on the meta device."""

import gzip
import json

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from golden import CONFIGS, DATA

from co_detr.checkpoint.official import convert_official, official_table
from co_detr.checkpoint.rename import ConversionError, rename
from co_detr.modeling.backbone.eva import EvaViT
from co_detr.modeling.neck import SimpleFeaturePyramid


def release(name):
    with gzip.open(DATA / "official_keys" / f"{name}.json.gz", "rt") as file:
        entries = json.load(file)["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in entries}


def load(config):
    return LazyConfig.load(str(CONFIGS / config))


def mask_r50():
    return load("co_deformable_detr/co_deformable_detr_mask_r50_12ep.py").model


def vit_instance(num_classes):
    cfg = load("common/models/co_dino_r50.py").model
    cfg.backbone = L(EvaViT)()
    cfg.neck = L(SimpleFeaturePyramid)(in_channels=1024, out_channels=256)
    cfg.encoder.num_levels = cfg.decoder.num_levels = 5
    cfg.num_classes = num_classes
    cfg.instance_mask = load("common/models/instance_mask.py").instance_mask
    return cfg


def vit_instance_coco():
    cfg = vit_instance(80)
    cfg.query_sources.matching.num_queries = 1500
    head = cfg.aux_heads.rcnn.box_head
    head.num_convs, head.num_fcs, head.class_agnostic_boxes = 4, 1, True
    return cfg


def vit_instance_lvis():
    cfg = vit_instance(1203)
    cfg.backbone.window_size, cfg.backbone.global_blocks = 16, list(range(2, 24, 3))
    return cfg


RELEASES = {
    "co_deformable_detr_mask_r50_1x_coco": mask_r50,
    "co_dino_5scale_vit_large_coco_instance": vit_instance_coco,
    "co_dino_5scale_lsj_vit_large_lvis_instance": vit_instance_lvis,
}


@pytest.fixture(scope="module")
def models():
    with torch.device("meta"):
        return {name: instantiate(make()) for name, make in RELEASES.items()}


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
            "aux_heads.rcnn.mask_head.logits.weight",
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
            "instance_mask.iou_head.mask_iou.weight",
        ),
    ],
)
def test_some_names_by_hand(models, name, theirs, ours):
    table = official_table(models[name])
    assert dict(rename(release(name), table, models[name].state_dict())[1])[theirs] == ours


def test_a_model_without_masks_refuses_weights_with_masks():
    cfg = mask_r50()
    cfg.aux_heads.rcnn.mask_head = None
    with torch.device("meta"):
        model = instantiate(cfg)
    with pytest.raises(ConversionError, match=r"model lacks \(12\):\n  aux_heads.rcnn.mask_head"):
        convert_official(release("co_deformable_detr_mask_r50_1x_coco"), model)
