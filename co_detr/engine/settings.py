"""The types of a config's settings: a wrong one would end in an error that does not name it."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, ConfigTypeError

LARGEST = 2**31 - 1  # as a seed of NumPy's may be; nothing is counted up to more


class Kind(NamedTuple):
    """What a setting may be: in words, and as a test of its value, which is never None."""

    words: str
    fits: Callable[[Any], bool]
    may_be_null: bool = False


def or_null(kind: Kind) -> Kind:
    """The same, or null."""
    return Kind(f"{kind.words}, or null", kind.fits, may_be_null=True)


def one_of(*values: Any) -> Kind:
    """One of some values."""
    return Kind(f"one of {', '.join(map(repr, values))}", lambda v: v in values)


def whole(least: int = -LARGEST, most: int = LARGEST) -> Kind:
    """A whole number, of at least `least`; that `most` is the largest one is not said."""
    words = "a whole number" if least == -LARGEST else f"a whole number of at least {least}"
    return Kind(words, lambda v: _is(v, Integral) and least <= v <= most)


def number(least: float = -math.inf, most: float = math.inf) -> Kind:
    """A finite number from `least` to `most`."""
    words = "a number"
    if least > -math.inf:
        words += f" from {least:g} on" if most == math.inf else f" from {least:g} to {most:g}"
    return Kind(
        words,
        lambda v: _is(v, Real) and _is_finite(v) and least <= v <= most,
    )


def _is(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _is_device(value: Any) -> bool:
    try:
        return isinstance(value, str) and torch.device(value) is not None
    except RuntimeError:
        return False


def _are_names(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list | ListConfig) and all(isinstance(name, str) for name in names)


def _are_betas(value: Any) -> bool:
    return (
        isinstance(value, list | tuple | ListConfig)
        and len(value) == 2
        and all(_is(beta, Real) and 0 <= beta < 1 for beta in value)
    )


SWITCH = Kind("True or False", lambda v: isinstance(v, bool) or (type(v) is int and v in (0, 1)))
EXACT_SWITCH = Kind("True or False", lambda v: isinstance(v, bool))
PERIOD = or_null(whole())  # 0 and less mean never
TEXT = Kind("a text", lambda v: isinstance(v, str))
PATH = Kind("the path of a folder", lambda v: isinstance(v, str) and bool(v.strip()))
NAMES = Kind("a name or a list of names", _are_names)
SOME_NAMES = Kind("a name or a list of names", lambda v: _are_names(v) and len(v) > 0)

KINDS: Mapping[str, Kind] = {
    "model.num_classes": whole(1),
    "train.output_dir": PATH,
    "train.init_checkpoint": or_null(TEXT),
    "train.max_iter": whole(0),
    "train.seed": or_null(whole()),
    "train.device": Kind('a device of PyTorch, such as "cuda", "cuda:1" or "cpu"', _is_device),
    "train.cudnn_benchmark": SWITCH,
    "train.amp.enabled": SWITCH,
    "train.compile.enabled": SWITCH,
    "train.channels_last": SWITCH,
    "train.recompute_blocks": or_null(whole(0)),
    "train.tf32": or_null(EXACT_SWITCH),
    "train.clip_grad.enabled": SWITCH,
    "train.clip_grad.params.max_norm": number(0),
    "train.clip_grad.params.norm_type": Kind(
        "a number above 0, or .inf", lambda v: _is(v, Real) and v > 0
    ),
    "train.ddp.broadcast_buffers": SWITCH,
    "train.ddp.find_unused_parameters": SWITCH,
    "train.ddp.fp16_compression": SWITCH,
    "train.fsdp.enabled": SWITCH,
    "train.fsdp.reshard_after_forward": SWITCH,
    "train.ema.enabled": SWITCH,
    "train.ema.decay": number(0, 1),
    "train.ema.start": whole(),
    "train.accumulate": whole(),
    "train.reference_batch_size": or_null(number()),
    "train.freeze": or_null(NAMES),
    "train.loggers": or_null(NAMES),
    "train.log_period": PERIOD,
    "train.eval_period": PERIOD,
    "train.checkpointer.period": PERIOD,
    "train.checkpointer.max_to_keep": or_null(whole()),
    "train.best_checkpoint.enabled": SWITCH,
    "train.best_checkpoint.metric": TEXT,
    "train.early_stop.patience": or_null(whole()),
    "dataloader.train.dataset.names": SOME_NAMES,
    "dataloader.train.total_batch_size": or_null(whole()),
    "dataloader.train.num_workers": whole(0),
    "dataloader.train.seed": or_null(whole()),
    "dataloader.test.dataset.names": or_null(SOME_NAMES),
    "dataloader.test.batch_size": whole(1),
    "dataloader.test.num_workers": whole(0),
    "lr_multiplier.warmup_length": number(0, 1),
    "lr_multiplier.warmup_factor": number(0),
    "optimizer.lr": number(0),
    "optimizer.betas": Kind("a pair of numbers from 0 to below 1", _are_betas),
    "optimizer.weight_decay": number(0),
    "optimizer.fused": or_null(EXACT_SWITCH),
    "optimizer.params.base_lr": or_null(number(0)),
    "optimizer.params.weight_decay_norm": or_null(number(0)),
}
"""Settings that most configs have, and what they may be; ranges that others check are left open."""


def check_settings(cfg: DictConfig) -> None:
    """Check the settings that a config has; whole numbers that are written as floats, such as 1e4,
    become whole ones in it.

    Raises:
        ValueError: one is not what it may be; names the setting, its value and what it may be. Or
            data has another order of colours than the model.
    """
    for key, kind in KINDS.items():
        section, _, name = key.rpartition(".")
        try:
            parent = OmegaConf.select(cfg, section)
        except (ConfigKeyError, ConfigTypeError):
            continue
        if not isinstance(parent, DictConfig) or name not in parent:
            continue
        check_value(parent, name, kind, key)
    _check_image_formats(cfg)


def _check_image_formats(cfg: DictConfig) -> None:
    """Wrong colours cost some AP, and nothing else would tell."""
    of_model = OmegaConf.select(cfg, "model.image_format", throw_on_resolution_failure=False)
    for key in ("dataloader.train.mapper.image_format", "dataloader.test.mapper.image_format"):
        of_data = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        if None not in (of_model, of_data) and of_model != of_data:
            raise ValueError(
                f"{key}={of_data!r}, but model.image_format={of_model!r}: the model would see "
                "other colours there than in predictions. Make them the same"
            )


def check_value(node: DictConfig, name: str, kind: Kind, key: str) -> None:
    """Check the value that a node has by a name, and that is at `key` of the config; whole numbers
    as in `check_settings`.

    Raises:
        ValueError: as there.
    """
    value = node[name]
    if isinstance(value, float) and value.is_integer() and not kind.fits(value):
        if kind.fits(int(value)):
            node[name] = value = int(value)
    if not (kind.may_be_null if value is None else kind.fits(value)):
        shown = "null" if value is None else repr(value)
        raise ValueError(f"{key}={shown:.80} must be {kind.words}")
