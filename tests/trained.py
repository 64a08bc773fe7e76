"""Checkpoints as a training leaves them, of digits models with random weights."""

from pathlib import Path

import torch
from detectron2.config import instantiate

from co_detr import model_zoo
from co_detr.checkpoint.model_card import describe
from co_detr.engine.checkpoint import WholeFileCheckpointer

NAME = "co_deformable_detr/co_deformable_detr_digits"
CATEGORIES = [{"id": 10 * i, "name": f"digit {i}"} for i in range(10)]


def trained(folder: Path, name=NAME, resize=None, card=True, **changes) -> Path:
    """A checkpoint of a digits model.

    Args:
        folder: gets it.
        name: of the config.
        resize: shorter side, and longer one at most, of pictures that are tested; None for none.
        card: whether it brings its config and the names of its classes along.
        changes: of the model.
    """
    cfg = model_zoo.get_config(name)
    for key, value in changes.items():
        cfg.model[key] = value
    if resize is not None:
        cfg.dataloader.test.mapper.augmentations = [
            {"_target_": "co_detr.data.ResizeShortestEdge"}
            | {"short_edge_length": resize[0], "max_size": resize[1]}
        ]
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    model.model_card = describe(cfg, CATEGORIES) if card else None
    WholeFileCheckpointer(model, str(folder)).save("model")
    return folder / "model.pth"
