"""A tiny detector that is quick to export."""

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from golden import co_dino_config
from torch import nn

from co_detr.inference.detector import Detector
from co_detr.modeling.backbone.swin import SwinTransformer

SIZE = 96, 128
CATEGORIES = [{"id": 10 * i, "name": f"thing {i}"} for i in range(7)]


def tiny_model(**changes) -> nn.Module:
    """A Co-DINO of three Swin blocks, one encoder and one decoder layer; its scores differ."""
    cfg = co_dino_config()
    del cfg.aux_heads, cfg.pyramid, cfg.query_sources.customized
    cfg.encoder.num_layers = cfg.decoder.num_layers = 1
    cfg.backbone = L(SwinTransformer)(
        embed_dim=16,
        depths=(2, 1),
        num_heads=(2, 2),
        window_size=4,
        patch_size=8,
        out_features=("res2", "res3"),
    )
    cfg.neck.in_features, cfg.neck.in_channels = ["res2", "res3"], [16, 32]
    cfg.neck.num_outs = 2
    cfg.update(changes)
    torch.manual_seed(0)
    model = instantiate(cfg)
    return with_spread_scores(model)


def with_spread_scores(model: nn.Module) -> nn.Module:
    """A model whose scores differ, in evaluation mode; as initialized, they are nearly the same."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_branch" in name and parameter.dim() == 2:
                parameter.mul_(4)
    return model.eval()


def detector_of(model: nn.Module, **options) -> Detector:
    options = {"min_size": 96, "max_size": 128, "image_format": model.image_format, **options}
    return Detector(model, CATEGORIES, **options)
