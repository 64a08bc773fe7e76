"""The steps that are profiled: one of a training as a config sets it up, or an inference."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from co_detr.engine import build
from co_detr.engine.freezing import KeepFrozen, freeze
from co_detr.engine.trainer import Trainer

from .stages import Method


@dataclass(frozen=True)
class Step:
    """Something to be profiled.

    Attributes:
        model: whose parts are stages.
        run: a call of the step; each one does the same.
        methods: calls that are stages, too.
    """

    model: nn.Module
    run: Callable[[], object]
    methods: Sequence[Method] = ()


def training_step(cfg: DictConfig, batch: Sequence[dict]) -> Step:
    """A step of `Trainer`, without the hooks of a run, and without loading data.

    The learning rate is zero, so that every call finds the same weights.

    Args:
        cfg: as `engine.train.setup` returns it; ImageNet weights are not fetched.
        batch: training examples.
    """
    model = build.build_model(cfg, weights_follow=True)
    frozen = freeze(model, cfg.train.get("freeze") or ())
    trainer = Trainer(
        model,
        itertools.repeat(batch),
        build.build_optimizer(cfg, model),
        seed=max(cfg.train.get("seed") or 0, 0),
        clip_grad=build.clip_grad_params(cfg),
        amp_dtype=build.amp_dtype(cfg),
        accumulate=cfg.train.get("accumulate", 1),
    )
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.register_hooks([KeepFrozen(frozen)])
    trainer.iter = trainer.start_iter = 0
    model.train()

    def run() -> None:
        with EventStorage(0) as trainer.storage:
            trainer.before_step()
            trainer.run_step()

    methods = [
        (torch.Tensor, "backward", "backward"),
        (nn.utils, "clip_grad_norm_", "clip gradients"),
        (trainer.optimizer, "step", "optimizer"),
    ]
    return Step(model, run, methods)


def inference(cfg: DictConfig, batch: Sequence[dict]) -> Step:
    """Inference of images, in the precision of the model's weights."""
    model = build.build_model(cfg, weights_follow=True).eval()
    return Step(model, torch.no_grad()(lambda: model(batch)))
