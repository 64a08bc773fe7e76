"""A shrunken copy of each model family trains two steps, by its own config, and is evaluated."""

import json
import math
from types import SimpleNamespace

import pytest
import tiny_dataset
import torch
from detectron2.config import LazyCall as L
from golden import narrow_resnet50
from omegaconf import OmegaConf

from co_detr import model_zoo
from co_detr.engine.train import do_train
from co_detr.evaluation.evaluators import LVISEvaluator

DEFORMABLE, DINO = "co_deformable_detr/co_deformable_detr_", "co_dino/co_dino_"
FAMILIES = {
    "plain": "co_deformable_detr/deformable_detr_r50_12ep",
    "deformable": DEFORMABLE + "r50_12ep",
    "deformable-swin": DEFORMABLE + "swin_tiny_12ep",
    "mask": DEFORMABLE + "mask_r50_12ep",
    "encoder": "encoder_heads/encoder_rcnn_r50_12ep",
    "conditional": "conditional_detr/co_conditional_detr_r50_c5_36ep",
    "dab": "dab_detr/co_dab_detr_r50_c5_36ep",
    "dino": DINO + "r50_5scale_12ep",
    "dino-lsj": DINO + "r50_5scale_lsj_12ep",
    "dino-swin": DINO + "swin_large_5scale_12ep",
    "lvis": DINO + "r50_5scale_lsj_12ep_lvis",
    "vit": DINO + "vit_large_5scale_12ep",
    "instance": DINO + "vit_large_5scale_12ep_instance",
}

SMALLER = {  # where a config has such a key
    "model.num_classes": 5,
    "model.neck.out_channels": 64,
    "model.encoder.num_layers": 1,
    "model.encoder.ffn_dim": 64,
    "model.decoder.num_layers": 2,
    "model.query_sources.matching.num_queries": 20,
    "model.query_sources.denoising.num_queries": 4,
    "model.query_sources.customized.max_queries": 16,
    "model.aux_heads.rcnn.rpn.pre_nms_topk": (60, 60),
    "model.aux_heads.rcnn.rpn.post_nms_topk": (40, 40),
    "model.aux_heads.rcnn.samples_per_image": 32,
    "model.aux_heads.rcnn.box_head.fc_dim": 16,
    "model.aux_heads.rcnn.detections_per_image": 10,
    "model.criterion.federated.num_sampled": 3,
    "model.instance_mask.boxes_per_image": 4,
    "model.postprocess.max_detections": 10,
    "dataloader.train.total_batch_size": 2,
    "dataloader.train.mapper.augmentations.canvas": 96,
    "dataloader.train.mapper.augmentations.short_sides": [64],
    "dataloader.train.mapper.augmentations.max_size": 96,
    "dataloader.train.mapper.augmentations.crop_short_sides": [48],
    "dataloader.train.mapper.augmentations.crop_range": [32, 48],
}


def shrunken(name):
    """A config made small: what it is built of and how it is trained stays."""
    cfg = model_zoo.get_config(name)
    for key, value in SMALLER.items():
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, value)
    for resize in cfg.dataloader.test.mapper.augmentations:
        if "canvas" not in cfg.model:
            resize.short_edge_length, resize.max_size = 64, 96

    backbone = cfg.model.backbone
    if "window_size" not in backbone:
        levels = backbone.out_features
        cfg.model.backbone = L(narrow_resnet50)(out_features=levels)
        cfg.model.neck.in_channels = [16, 32, 64, 128][-len(levels) :]
    elif "patch_size" in backbone:
        small = dict(embed_dim=64, depth=2, num_heads=4, pretrained_grid=4, window_size=2)
        backbone.update(small | dict(global_blocks=[1]))
    else:
        backbone.update(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=3)
        backbone.pretrained = None
        cfg.model.neck.in_channels = [8, 16, 32, 64][-len(backbone.out_features) :]
    return cfg


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_and_is_evaluated(family, tmp_path):
    cfg = shrunken(FAMILIES[family])
    lvis = cfg.dataloader.evaluator._target_ is LVISEvaluator
    tiny_dataset.use(cfg, tiny_dataset.register(tmp_path / "data", 5, lvis))
    masks = family in ("mask", "instance")
    if family == "mask":
        cfg.model.eval_branch = "rcnn"  # whose masks they are
    train = cfg.train
    train.output_dir, train.init_checkpoint, train.device = str(tmp_path / "out"), "", "cpu"
    (tmp_path / "out").mkdir()
    train.max_iter, train.log_period = 2, 1
    train.eval_period = train.checkpointer.period = 2

    torch.manual_seed(0)
    results = do_train(SimpleNamespace(resume=False), cfg)
    assert set(results) == ({"bbox", "segm"} if masks else {"bbox"})
    # of two steps one cannot expect detections, but the evaluation had all to compute an AP of
    assert all(not math.isnan(result["AP"]) for result in results.values())
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    losses = [entry for entry in map(json.loads, lines) if "total_loss" in entry]
    assert [entry["iteration"] for entry in losses] == [0, 1]
    assert all(math.isfinite(entry["total_loss"]) for entry in losses)
    assert (tmp_path / "out" / "model_final.pth").exists()
    assert (tmp_path / "out" / "model_final_ema.pth").exists() == train.ema.enabled
