"""Optimizer, parameter groups and schedule, from a config or from arguments."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from detectron2.config import CfgNode

from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

logger = logging.getLogger(__name__)

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Sort a model's trainable parameters into groups for an optimizer.

    What is left None is not set, so that the optimizer's own value holds. Where several rules
    apply to a parameter, the later of this list of arguments wins.

    Args:
        base_lr: learning rate of every parameter.
        weight_decay: of every parameter.
        weight_decay_norm: of the parameters of normalization layers.
        bias_lr_factor: factor on `base_lr` for parameters called "bias".
        weight_decay_bias: of parameters called "bias", those of normalization layers included.
        lr_factor_func: from the full name of a parameter to a factor on its learning rate.
        overrides: from a parameter's own name (the last part of the full one) to settings that
            replace those above, such as `{"embedding": {"lr": 0.01}}`.

    Returns:
        One dict per distinct setting: "params" and those of "lr", "weight_decay", ... that are set.

    Raises:
        ValueError: a factor without `base_lr`, or "bias" set in two ways.
    """
    overrides = dict(overrides or {})
    bias: dict[str, float] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError(f"bias_lr_factor={bias_lr_factor} needs base_lr")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in overrides:
            raise ValueError(
                f'"bias" is set by bias_lr_factor or weight_decay_bias ({bias}) and by overrides '
                f"({overrides['bias']}): use one of them"
            )
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr")

    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings: dict[str, float] = {}
            if base_lr is not None:
                settings["lr"] = base_lr
            if weight_decay is not None:
                settings["weight_decay"] = weight_decay
            if weight_decay_norm is not None and isinstance(module, _NORMS):
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}" if module_name else name)
            settings.update(overrides.get(name, {}))
            groups[tuple(sorted(settings.items()))].append(parameter)
    return [{"params": parameters, **dict(settings)} for settings, parameters in groups.items()]


def _clipper(cfg: CfgNode) -> Callable[[nn.Parameter], Any]:
    """The function that clips the gradient of one parameter, see `build_optimizer`."""
    if cfg.CLIP_TYPE == "value":
        return lambda p: nn.utils.clip_grad_value_(p, cfg.CLIP_VALUE)
    if cfg.CLIP_TYPE == "norm":
        return lambda p: nn.utils.clip_grad_norm_(p, cfg.CLIP_VALUE, cfg.NORM_TYPE)
    raise ValueError(
        f"unknown SOLVER.CLIP_GRADIENTS.CLIP_TYPE {cfg.CLIP_TYPE!r}: choose 'value' or 'norm'"
    )


def _clip_before_step(
    optimizer: torch.optim.Optimizer, clip: Callable[[nn.Parameter], Any]
) -> None:
    """Make an optimizer clip each parameter's gradient at the start of every step."""

    def clip_all(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                clip(parameter)

    optimizer.register_step_pre_hook(clip_all)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the SGD that `cfg.SOLVER` describes.

    With `SOLVER.CLIP_GRADIENTS.ENABLED`, each step first limits the gradients: to
    [-CLIP_VALUE, CLIP_VALUE] per element (CLIP_TYPE "value"), or to a norm of CLIP_VALUE for each
    parameter on its own ("norm", of order NORM_TYPE).

    Raises:
        ValueError: CLIP_TYPE is unknown.
    """
    solver = cfg.SOLVER
    optimizer = torch.optim.SGD(
        get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        ),
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )
    if solver.CLIP_GRADIENTS.ENABLED:
        _clip_before_step(optimizer, _clipper(solver.CLIP_GRADIENTS.clone()))
    return optimizer


def _steps_in_time(steps: Iterable[int], max_iter: int) -> list[int]:
    """The milestones that training reaches; warns of the others."""
    reached = [step for step in steps if step <= max_iter]
    ignored = [step for step in steps if step > max_iter]
    if ignored:
        logger.warning("SOLVER.STEPS %s are after SOLVER.MAX_ITER %d: ignored", ignored, max_iter)
    return reached


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build the schedule that `cfg.SOLVER` describes: warmup, then steps or a cosine.

    Raises:
        ValueError: LR_SCHEDULER_NAME is neither "WarmupMultiStepLR" nor "WarmupCosineLR".
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = _steps_in_time(solver.STEPS, solver.MAX_ITER)
        schedule = MultiStepParamScheduler(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        )
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = CosineParamScheduler(1, solver.get("BASE_LR_END", 0.0) / solver.BASE_LR)
    else:
        raise ValueError(
            f"unknown SOLVER.LR_SCHEDULER_NAME {solver.LR_SCHEDULER_NAME!r}: choose "
            "'WarmupMultiStepLR' or 'WarmupCosineLR'"
        )
    schedule = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, schedule, max_iter=solver.MAX_ITER)
