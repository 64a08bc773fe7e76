"""Swin backbones as they stand in the released models."""

from detectron2.config import LazyCall as L

from co_detr.modeling.backbone.swin import SWIN, SwinTransformer


def swin(size, *, drop_path_rate, pretrained, out_features=("res3", "res4", "res5")):
    """`size` is a key of SWIN; `pretrained` the timm model whose ImageNet weights training starts
    from."""
    return L(SwinTransformer)(
        **SWIN[size],
        out_features=list(out_features),
        drop_path_rate=drop_path_rate,
        pretrained=pretrained,
    )
