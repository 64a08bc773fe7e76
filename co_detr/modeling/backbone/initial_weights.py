"""Initial weights of transformers: random, or through timm from its hub or from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from co_detr.checkpoint.reading import read_tensors


def init_linear(module: nn.Module) -> None:
    """For `Module.apply`: normal weights of deviation 0.02, zero biases, in linear layers only."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def overlay_of_file(path: str | Path) -> dict[str, Any]:
    """Make timm read a model's weights from a file, where it would download them.

    timm then converts them as it does its own: original releases' names and other patch sizes are
    adapted, the classifier is dropped.

    Args:
        path: a classification checkpoint, in any format that `read_checkpoint` reads.

    Returns:
        the `pretrained_cfg_overlay` of `timm.create_model`; the weights are its "state_dict".

    Raises:
        FileNotFoundError, UnsafeCheckpointError, DamagedCheckpointError: as `read_checkpoint`.
    """
    return {"state_dict": read_tensors(path), "custom_load": False}


def check_taken(model: Mapping[str, Tensor], source: Mapping[str, Tensor], path: Any) -> None:
    """Raise unless a matrix of the model is one of the source.

    timm loads leniently when it drops a classifier, so that weights of a different model would
    leave everything at its random initialization. Comparing values instead of names works across
    the renaming that timm does.

    Args:
        model: tensors after loading.
        source: tensors of the file.
        path: the file, for the message.
    """
    matrices = [value for value in source.values() if value.ndim > 1]
    for value in model.values():
        if value.ndim > 1 and any(
            value.shape == other.shape and torch.equal(value, other.to(value)) for other in matrices
        ):
            return
    raise ValueError(f"no weights of {path} fit the model; are they those of the same timm model?")


def timm_state_dict(
    model_name: str, file: str | Path | None = None, **options: Any
) -> dict[str, Tensor]:
    """Pretrained weights of a timm model without its classifier, under timm's names.

    Args:
        model_name: the timm model, with the tag of its weights.
        file: read them from this file instead of downloading them.
        options: further arguments of the timm model, to which timm adapts the weights.
    """
    overlay = overlay_of_file(file) if file is not None else None
    model = timm.create_model(
        model_name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **options
    )
    weights = model.state_dict()
    if overlay is not None:
        check_taken(weights, overlay["state_dict"], file)
    return weights
