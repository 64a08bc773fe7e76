"""The full-size models of the configs, on the meta device, and the records of the released ones."""

import gzip
import json
from functools import cache

import torch
from detectron2.config import instantiate
from golden import DATA
from omegaconf import OmegaConf
from torch import Tensor, nn

from co_detr import model_zoo
from co_detr.checkpoint.pretrained import without_pretrained

_DEFORMABLE = "co_deformable_detr/co_deformable_detr_"
_DINO = "co_dino/co_dino_"

RELEASES = {  # released config -> ours, as `model_zoo` names it
    "co_deformable_detr_r50_1x_coco": _DEFORMABLE + "r50_12ep",
    "co_deformable_detr_mask_r50_1x_coco": _DEFORMABLE + "mask_r50_12ep",
    "co_deformable_detr_swin_tiny_1x_coco": _DEFORMABLE + "swin_tiny_12ep",
    "co_deformable_detr_swin_tiny_3x_coco": _DEFORMABLE + "swin_tiny_36ep",
    "co_deformable_detr_swin_small_1x_coco": _DEFORMABLE + "swin_small_12ep",
    "co_deformable_detr_swin_small_3x_coco": _DEFORMABLE + "swin_small_36ep",
    "co_deformable_detr_swin_base_1x_coco": _DEFORMABLE + "swin_base_12ep",
    "co_deformable_detr_swin_base_3x_coco": _DEFORMABLE + "swin_base_36ep",
    "co_deformable_detr_swin_large_1x_coco": _DEFORMABLE + "swin_large_12ep",
    "co_deformable_detr_swin_large_900q_3x_coco": _DEFORMABLE + "swin_large_900q_36ep",
    "co_dino_5scale_r50_1x_coco": _DINO + "r50_5scale_12ep",
    "co_dino_5scale_lsj_r50_1x_coco": _DINO + "r50_5scale_lsj_12ep",
    "co_dino_5scale_lsj_r50_3x_coco": _DINO + "r50_5scale_lsj_36ep",
    "co_dino_5scale_9encoder_lsj_r50_1x_coco": _DINO + "r50_5scale_lsj_9enc_12ep",
    "co_dino_5scale_9encoder_lsj_r50_3x_coco": _DINO + "r50_5scale_lsj_9enc_36ep",
    "co_dino_5scale_r50_1x_lvis": _DINO + "r50_5scale_12ep_lvis",
    "co_dino_5scale_lsj_r50_1x_lvis": _DINO + "r50_5scale_lsj_12ep_lvis",
    "co_dino_5scale_swin_large_1x_coco": _DINO + "swin_large_5scale_12ep",
    "co_dino_5scale_swin_large_2x_coco": _DINO + "swin_large_5scale_24ep",
    "co_dino_5scale_swin_large_3x_coco": _DINO + "swin_large_5scale_36ep",
    "co_dino_5scale_lsj_swin_large_1x_coco": _DINO + "swin_large_5scale_lsj_12ep",
    "co_dino_5scale_lsj_swin_large_2x_coco": _DINO + "swin_large_5scale_lsj_24ep",
    "co_dino_5scale_lsj_swin_large_3x_coco": _DINO + "swin_large_5scale_lsj_36ep",
    "co_dino_5scale_lsj_swin_large_3x_lvis": _DINO + "swin_large_5scale_lsj_36ep_lvis",
    "co_dino_5scale_swin_large_16e_o365tococo": _DINO + "swin_large_5scale_16ep_o365tococo",
    "co_dino_5scale_lsj_swin_large_16e_o365tolvis": (
        _DINO + "swin_large_5scale_lsj_16ep_o365tolvis"
    ),
    "co_dino_5scale_vit_large_coco": _DINO + "vit_large_5scale_12ep",
    "co_dino_5scale_vit_large_coco_instance": _DINO + "vit_large_5scale_12ep_instance",
    "co_dino_5scale_lsj_vit_large_lvis": _DINO + "vit_large_5scale_lsj_16ep_lvis",
    "co_dino_5scale_lsj_vit_large_lvis_instance": _DINO + "vit_large_5scale_lsj_16ep_lvis_instance",
}


def record(name: str) -> dict:
    """What is on record of a released model: parameter counts and its state dict's entries."""
    with gzip.open(DATA / "official_keys" / f"{name}.json.gz", "rt") as file:
        return json.load(file)


def release(name: str) -> dict[str, Tensor]:
    """A released state dict without content: meta tensors by name."""
    entries = record(name)["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in entries}


def build_on_meta(name: str, **changes: object) -> nn.Module:
    """A config's model without content, with changes such as {"encoder.num_layers": 9}."""
    cfg = model_zoo.get_config(name)
    for key, value in changes.items():
        OmegaConf.update(cfg.model, key, value)
    with torch.device("meta"):
        return instantiate(without_pretrained(cfg.model))


@cache
def meta_model(name: str) -> nn.Module:
    """A config's model without content; shared by the tests, so to be left as it is."""
    return build_on_meta(name)
