"""Tiny random detectors of Hugging Face `transformers`, and the configs of ours that they fit."""

import math

import torch
import transformers
from detectron2.config import LazyCall as L
from golden import narrow_resnet50

from co_detr import model_zoo

LAYERS, QUERIES, CLASSES, C = 3, 20, 7, 64


def make_theirs(kind, **settings):
    """A random model of theirs."""
    levels = ["stage2", "stage3", "stage4"] if kind == "Deformable" else ["stage4"]
    backbone = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3], out_features=levels
    )
    width = {"hidden_size": C} if kind == "Dab" else {"d_model": C}
    config = getattr(transformers, f"{kind}DetrConfig")(
        backbone_config=backbone,
        **width,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=QUERIES,
        num_labels=CLASSES,
        class_cost=2,  # their default for Deformable DETR is 1, unlike the authors'
        dropout=0.0,
        auxiliary_loss=kind != "Conditional",  # see `_their_layers`
        **settings,
    )
    model = getattr(transformers, f"{kind}DetrForObjectDetection")(config)
    if "with_box_refine" in settings:
        # tied, theirs would have the same branches in all layers, which they publish no model with
        decoder = model.model.decoder
        decoder.bbox_embed = model.bbox_embed
        decoder.class_embed = model.class_embed if config.two_stage else None
    return _randomize(model).eval()


def _randomize(model):
    """Many weights start at zero or very small, which would hide most of what is compared."""
    generator = torch.Generator().manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.data = 1 + 0.5 * noise.abs()
        elif value.dim() > 1:
            fan_in = value[0].numel() if "sampling_offsets" not in name else 16 * C
            value.data = noise / math.sqrt(fan_in)
        elif value.is_floating_point():
            one = "norm" in name and name.endswith("weight") and "running" not in name
            value.data = one + 0.1 * noise
    return model


def ours_config(name, change=lambda model: None):
    """The model of a config of full size as tiny as theirs."""
    cfg = model_zoo.get_config(name).model
    cfg.backbone = L(narrow_resnet50)(out_features=cfg.backbone.out_features)
    cfg.neck.in_channels = [32, 64, 128][-len(cfg.backbone.out_features) :]
    cfg.neck.out_channels = C
    cfg.neck.bias = True
    cfg.num_classes = CLASSES
    cfg.encoder.num_layers, cfg.decoder.num_layers = 2, LAYERS
    cfg.encoder.num_heads, cfg.encoder.ffn_dim = 4, 96
    cfg.query_sources.matching.num_queries = QUERIES
    cfg.pixel_mean, cfg.pixel_std = [128.0] * 3, [64.0] * 3
    if "dropout" in cfg.encoder:
        cfg.encoder.dropout = 0.0
    change(cfg)
    return cfg


def _their_clamp(cfg):
    cfg.decoder.eps = 1e-5


def _refined(cfg):
    cfg.decoder.refine = True


def _two_stage(cfg):
    cfg.query_sources.matching.mixed_selection = False
    cfg.decoder.look_forward_twice = False


_DEFORMABLE = "co_deformable_detr/"
_UNTIED = dict(with_box_refine=True, tie_word_embeddings=False)
KINDS = {
    "conditional": (
        lambda: make_theirs("Conditional"),
        lambda: ours_config("conditional_detr/co_conditional_detr_r50_c5_36ep_k0"),
    ),
    "dab": (
        lambda: make_theirs("Dab"),
        lambda: ours_config("dab_detr/co_dab_detr_r50_c5_36ep_k0", _their_clamp),
    ),
    "deformable": (
        lambda: make_theirs("Deformable"),
        lambda: ours_config(_DEFORMABLE + "deformable_detr_r50_12ep"),
    ),
    "deformable-refined": (
        lambda: make_theirs("Deformable", **_UNTIED),
        lambda: ours_config(_DEFORMABLE + "deformable_detr_r50_12ep", _refined),
    ),
    "deformable-two-stage": (
        lambda: make_theirs(
            "Deformable", two_stage=True, two_stage_num_proposals=QUERIES, **_UNTIED
        ),
        lambda: ours_config(_DEFORMABLE + "co_deformable_detr_r50_12ep_k0", _two_stage),
    ),
}
