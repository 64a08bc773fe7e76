"""Models with random weights, and their training steps."""

import os
from collections.abc import Callable
from unittest import mock

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import torch
from detectron2.config import instantiate
from torch import nn

from co_detr import model_zoo
from co_detr.ops.ms_deform_attn.choice import REFERENCE, VARIABLE

R50_CONFIG = "common/models/co_deformable_detr_r50"
DINO_CONFIG = "common/models/co_dino_r50"
LVIS_CONFIG = "co_dino/co_dino_r50_5scale_lsj_12ep_lvis"
DIGITS_CONFIG = "co_deformable_detr/co_deformable_detr_digits"
DIGITS_DINO_CONFIG = "co_dino/co_dino_digits"


def build_model(
    config: str, device: torch.device, heads: tuple[str, ...] = ("rcnn", "atss")
) -> nn.Module:
    """A model with random weights and some of its auxiliary heads, in training mode."""
    torch.manual_seed(0)
    model = model_zoo.get_config(config).model
    for name in ("rcnn", "atss"):
        if name not in heads:
            del model.aux_heads[name]
    return instantiate(model).to(device).train()


def train_step(model: nn.Module, batch: list[dict[str, object]]) -> Callable[[], None]:
    """Losses, gradients, clipping and AdamW, with a learning rate too small to change much."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-7)

    def step() -> None:
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()

    return step


def with_reference_attention(function: Callable[[], object]) -> Callable[[], object]:
    """The same call with the reference implementation of deformable attention."""

    def run() -> object:
        with mock.patch.dict(os.environ, {VARIABLE: REFERENCE}):
            return function()

    return run
