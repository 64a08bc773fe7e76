"""Building models for other purposes than starting a training."""

import copy

from omegaconf import DictConfig


def without_pretrained(model: DictConfig) -> DictConfig:
    """A copy of a model's config that fetches no ImageNet weights.

    Backbones load them when they are built (`pretrained=...`), in vain where a checkpoint follows.
    """
    model = copy.deepcopy(model)
    backbone = model.get("backbone")
    if isinstance(backbone, DictConfig) and backbone.get("pretrained"):
        backbone.pretrained = False if isinstance(backbone.pretrained, bool) else None
        if "pretrained_file" in backbone:
            backbone.pretrained_file = None
    return model
