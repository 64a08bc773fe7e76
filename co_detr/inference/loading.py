"""From a checkpoint, and a config where it does not bring its own, to a model that detects.

`load_detector`, `build_predictor` and `tools/predict.py` all load in this way.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig, OmegaConf
from torch import nn

from co_detr.arguments import load_config
from co_detr.checkpoint.loading import load_for_inference
from co_detr.checkpoint.model_card import card_of
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.checkpoint.reading import Checkpoint, read_checkpoint
from co_detr.checkpoint.safe_config import read_model_config
from co_detr.data import ResizeShortestEdge
from co_detr.engine.argument_checks import check_arguments
from co_detr.engine.overrides import apply_overrides, parse_value
from co_detr.paths import expand_home

logger = logging.getLogger("co_detr.predict")

_WEIGHTS = "train.init_checkpoint"


def find_config(
    weights: str | Path | None, config_file: str | None = None, overrides: Sequence[str] = ()
) -> tuple[DictConfig, Checkpoint]:
    """The config of a model, and its weights.

    Args:
        weights: the checkpoint; None for the `train.init_checkpoint` of the config or overrides.
        config_file: a file, or a name of the model zoo; None for the config in the checkpoint.
        overrides: changes of the config, key=value.

    Returns:
        The config, with `train.init_checkpoint` set, and what was read. A config from a checkpoint
        has `model`, `train` and, in `dataloader.test`, how pictures are resized.

    Raises:
        ValueError: there are no weights, or neither they nor the caller has a config, or a part of
            it has a wrong argument.
        UnsafeConfigError: the config in the checkpoint asks for more than a model.
        FileNotFoundError, UnsafeCheckpointError, DamagedCheckpointError: as `read_checkpoint`.
    """
    if config_file:
        cfg, warnings = load_config(config_file, overrides)
        weights = weights or OmegaConf.select(cfg, _WEIGHTS)
        checkpoint = read_checkpoint(_given(weights))
    else:
        named = [o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{_WEIGHTS}=")]
        weights = weights or (parse_value(named[-1]) if named else None)
        checkpoint = read_checkpoint(_given(weights))
        cfg = config_of(checkpoint)
        warnings = apply_overrides(cfg, overrides)
        expand_home(cfg)
        check_arguments(cfg)
    for warning in warnings:
        logger.warning(warning)
    OmegaConf.update(cfg, _WEIGHTS, str(weights))
    return cfg, checkpoint


def config_of(checkpoint: Checkpoint) -> DictConfig:
    """The config that a checkpoint brings: `model`, `train` and `dataloader.test.mapper`.

    Raises:
        ValueError: it brings none, or none that can be used; says what to give instead.
    """
    card = card_of(checkpoint)
    if card is None or not card.config:
        lacking = f"could not take one along ({card.no_config})" if card else "carries none"
        raise ValueError(
            f"no config was given, and {checkpoint.path} {lacking}: add the one it was trained "
            "with, config_file=... in Python or --config-file on a command line"
        )
    test = {}
    if card.min_size is not None:
        resize = L(ResizeShortestEdge)(
            short_edge_length=[card.min_size] * 2, max_size=card.max_size or 0
        )
        test = {"mapper": {"augmentations": [resize] if card.min_size else []}}
    train = {"mapper": {"augmentations": [L(T.RandomFlip)()]}} if card.mirrored else {}
    content = {
        "model": read_model_config(card.config, checkpoint.path),
        "train": {"device": device_there_is(None)},
        "dataloader": {"train": train, "test": test},
    }
    return OmegaConf.create(content, flags={"allow_objects": True})


def build_trained(
    cfg: DictConfig, checkpoint: Checkpoint, device: str, config_file: str | None = None
) -> nn.Module:
    """The model of a config with the weights of a checkpoint, in evaluation mode.

    `config_file` is for messages. Raises as `load_for_inference`.
    """
    model = instantiate(without_pretrained(cfg.model)).to(device).eval()
    load_for_inference(model, checkpoint, config_file)
    return model


def device_there_is(device: str | torch.device | None) -> str:
    """A device; where CUDA or none is asked for, CUDA if there is any, else the CPU."""
    if device is not None and torch.device(device).type != "cuda":
        return str(device)
    if torch.cuda.is_available():
        return str(device or "cuda")
    if device is not None:
        logger.warning("no CUDA device: predicting on the CPU")
    return "cpu"


def _given(weights: str | Path | None) -> str | Path:
    if not weights:
        raise ValueError(
            "there are no weights to predict with: add train.init_checkpoint=/path/to/model.pth"
        )
    return weights
