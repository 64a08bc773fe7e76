"""Whole detectors by name."""

import torch
from fvcore.common.registry import Registry
from torch import nn

from detectron2._not_embedded import REMEDY
from detectron2.config import CfgNode

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """
Classes or functions that turn a config into a detector: called with the `CfgNode` alone, they
return an `nn.Module` that takes `list[dict]` (one dict per image).
"""


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the detector `cfg.MODEL.META_ARCHITECTURE` on `cfg.MODEL.DEVICE`, in training mode.

    The weights are the initial ones; `cfg.MODEL.WEIGHTS` is the checkpointer's business.

    Raises:
        KeyError: nothing is registered under that name.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        known = [key for key, _ in META_ARCH_REGISTRY]
        raise KeyError(
            f"{name!r} is not in META_ARCH_REGISTRY, which holds {known}; detectron2's own models "
            f"are {REMEDY}"
        )
    model = META_ARCH_REGISTRY.get(name)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
