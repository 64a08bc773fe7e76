"""The shrunken models of the golden fixtures in `tests/data`, and how to read these."""

import json
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from detectron2.structures import Boxes, Instances
from safetensors.torch import load_file

from co_detr.checkpoint.official import convert_official

DATA = Path(__file__).parent / "data"
CONFIGS = Path(__file__).parent.parent / "configs"
dense_head = LazyConfig.load(str(CONFIGS / "common/models/heads.py"), "dense_head")
keep_encoder_heads = LazyConfig.load(
    str(CONFIGS / "common/models/encoder_heads.py"), "keep_encoder_heads"
)


def tensors(folder: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(DATA / folder / f"{name}.safetensors")


def settings(folder: str, name: str = "settings") -> dict:
    return json.loads((DATA / folder / f"{name}.json").read_text())


def narrow_resnet50(out_features):
    """ResNet-50 with base width 4: stem 4, stages 16, 32, 64, 128."""
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            blocks,
            in_channels=width_in,
            out_channels=16 * 2**index,
            bottleneck_channels=4 * 2**index,
            stride_per_block=[1 if index == 0 else 2] + [1] * (blocks - 1),
            norm="FrozenBN",
        )
        for index, (blocks, width_in) in enumerate(zip((3, 4, 6, 3), (4, 16, 32, 64)))
    ]
    stem = BasicStem(in_channels=3, out_channels=4, norm="FrozenBN")
    return ResNet(stem, stages, out_features=out_features, freeze_at=2)


def co_deformable_detr_config():
    """The R50 config shrunken like the fixture `co_deformable_detr_tiny`."""
    cfg = LazyConfig.load(str(CONFIGS / "common/models/co_deformable_detr_r50.py")).model
    cfg.backbone = L(narrow_resnet50)(out_features=["res3", "res4", "res5"])
    cfg.neck.in_channels = [32, 64, 128]
    return shrink(cfg)


def co_dino_config():
    """The R50 config shrunken like the fixture `co_dino_tiny`."""
    cfg = LazyConfig.load(str(CONFIGS / "common/models/co_dino_r50.py")).model
    cfg.backbone = L(narrow_resnet50)(out_features=["res2", "res3", "res4", "res5"])
    cfg.neck.in_channels = [16, 32, 64, 128]
    denoising = cfg.query_sources.denoising
    denoising.num_queries, denoising.label_noise, denoising.box_noise = 10, 0.0, 0.0
    return shrink(cfg)


def single_scale_config(name):
    """The R50-C5 config of "conditional" or "dab" shrunken like the fixtures."""
    cfg = LazyConfig.load(str(CONFIGS / f"common/models/co_{name}_detr_r50_c5.py")).model
    cfg.backbone = L(narrow_resnet50)(out_features=["res5"])
    cfg.neck.in_channels = [128]
    return shrink(cfg)


def shrink(cfg):
    """What the shrunken models have in common."""
    cfg.num_classes = 7
    cfg.neck.out_channels = 64
    cfg.encoder.num_layers = cfg.decoder.num_layers = 2
    cfg.encoder.ffn_dim = 128
    cfg.query_sources.matching.num_queries = 30
    cfg.query_sources.customized.max_queries = 16
    cfg.postprocess.max_detections = 20
    rcnn, atss = cfg.aux_heads.rcnn, cfg.aux_heads.atss
    rcnn.loss_weight = atss.loss_weight = 12.0  # as of six layers
    rcnn.rpn.pre_nms_topk, rcnn.rpn.post_nms_topk = (400, 300), (100, 80)
    rcnn.rpn.samples_per_image = rcnn.samples_per_image = 10**6
    rcnn.positive_fraction = 0.5
    rcnn.box_head.fc_dim = 16
    rcnn.box_head.finest_scale = 14
    rcnn.detections_per_image = atss.detections_per_image = 20
    cfg.pixel_mean, cfg.pixel_std = [128.0] * 3, [64.0] * 3
    return cfg


def build(cfg, folder: str):
    """Instantiate a shrunken config with the weights of its fixture, in evaluation mode."""
    model = instantiate(cfg)
    model.load_state_dict(convert_official(tensors(folder, "weights"), model))
    return model.eval()


def batch(folder: str, training: dict | None = None) -> list[dict]:
    """The fixture's images cut to their valid size; with targets where `training` is given."""
    data = training if training is not None else tensors(folder, "inference")
    inputs = []
    for i, (image, (height, width)) in enumerate(zip(data["image_u8"], data["image_sizes"])):
        height, width = int(height), int(width)
        x = {"image": image[:, :height, :width].float(), "height": height, "width": width}
        if training is not None:
            x["instances"] = Instances(
                (height, width),
                gt_boxes=Boxes(training[f"gt_boxes.{i}"].float()),
                gt_classes=training[f"gt_labels.{i}"].long(),
            )
        inputs.append(x)
    return inputs
