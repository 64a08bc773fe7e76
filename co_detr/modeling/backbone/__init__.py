"""Backbones beside those of detectron2, which plug in as they are."""

from .eva import EVA02_LARGE, EvaViT, get_eva_lr_decay_rate
from .swin import SWIN, SwinTransformer
from .timm_backbone import TimmBackbone

__all__ = [
    "EVA02_LARGE",
    "SWIN",
    "EvaViT",
    "SwinTransformer",
    "TimmBackbone",
    "get_eva_lr_decay_rate",
]
