"""The arguments in a config of what is ours: a wrong one would end in an error that does not name
it, far away, or in none.

Types are those of the annotations; what else a value has to be, `VALUES` says by the name of the
argument, which means the same wherever it is used.
"""

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from .settings import SWITCH, TEXT, Kind, check_value, number, one_of, or_null, whole

COUNT, FRACTION, WEIGHT = whole(1), number(0, 1), number(0)
POSITIVE = Kind("a number above 0", lambda v: number(0).fits(v) and v > 0)
ALPHA = Kind("a number from 0 to 1, or -1", lambda v: v == -1 or FRACTION.fits(v))
ANYTHING = Kind("anything", lambda v: True, may_be_null=True)

VALUES: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            *("num_classes", "num_queries", "num_proposals", "num_groups", "repeats"),
            *("max_queries", "min_queries", "max_detections", "detections_per_image"),
            *("embed_dim", "num_heads", "num_layers", "num_levels", "num_points", "ffn_dim"),
            *("in_channels", "out_channels", "conv_channels", "fc_dim", "num_outs"),
            *("strides", "resolution", "scales_per_octave", "pad_multiple", "mask_size"),
            *("samples_per_image", "num_candidates", "candidates_per_level", "boxes_per_image"),
            *("num_sampled", "max_dets_per_image"),
            *("pre_nms_topk", "post_nms_topk", "depth", "depths", "window_size", "patch_size"),
            *("canvas", "ffn_tokens_at_once", "size", "max_size", "short_edge_length"),
            *("short_sides", "crop_short_sides", "crop_sides", "crop_range", "crop_max_size"),
        ),
        COUNT,
    ),
    **dict.fromkeys(
        ("num_convs", "num_fcs", "num_finer", "num_extra", "num_checkpointed", "num_one_to_many"),
        whole(0),
    ),
    **dict.fromkeys(
        (
            *("dropout", "drop_path_rate", "positive_fraction", "prior_probability"),
            *("positive_iou", "negative_iou", "min_positive_iou"),
            *("nms_threshold", "iou_threshold", "min_visible"),
        ),
        FRACTION,
    ),
    **dict.fromkeys(
        (
            *("class_weight", "l1_weight", "giou_weight", "loss_weight"),
            *("class_loss_weight", "box_loss_weight", "mask_loss_weight", "quality_loss_weight"),
            *("class_cost", "l1_cost", "giou_cost", "lambda_1", "lambda_2", "weight"),
            *("gamma", "beta", "focal_gamma", "box_noise", "content_std"),
        ),
        WEIGHT,
    ),
    **dict.fromkeys(
        (
            *("anchor_scale", "finest_scale", "temperature", "eps", "aspect_ratios", "delta_std"),
            *("pixel_std", "mlp_ratio", "scale"),
        ),
        POSITIVE,
    ),
    **dict.fromkeys(("alpha", "focal_alpha"), ALPHA),
    "label_noise": number(0, 2),
    "image_format": one_of("RGB", "BGR"),
}
"""What a single value must be; lists hold several."""


class _Argument(NamedTuple):
    """An argument of a call in a config."""

    node: DictConfig
    name: str
    key: str  # where it is in the config
    callee: Callable


def check_arguments(cfg: DictConfig) -> None:
    """Check the arguments of all calls of what is ours in a config.

    Whole numbers that are written as floats, such as 3e2, become whole ones in it.

    Raises:
        ValueError: one has a wrong value, or is none of the arguments there are; names it.
    """
    # where a value is written before where it is pointed to: there it is to be changed
    arguments = list(_arguments(cfg))
    for argument in sorted(arguments, key=lambda a: OmegaConf.is_interpolation(a.node, a.name)):
        _check(argument)


def _arguments(cfg: Any, path: str = "") -> Iterator[_Argument]:
    """The arguments of calls in the part of a config at `path`."""
    if isinstance(cfg, ListConfig) and not (cfg._is_missing() or cfg._is_none()):
        for index in range(len(cfg)):
            yield from _arguments(_value(cfg, index), f"{path}[{index}]")
    if not isinstance(cfg, DictConfig) or cfg._is_missing() or cfg._is_none():
        return
    callee = _callee(cfg)
    for name in map(str, cfg):
        key = f"{path}.{name}".lstrip(".")
        if callee is not None and name != "_target_":
            yield _Argument(cfg, name, key, callee)
        yield from _arguments(_value(cfg, name), key)


def _value(cfg: DictConfig | ListConfig, key: Any) -> Any:
    """A value of a config, "???" where it points to nothing: who builds it will say so."""
    try:
        return cfg[key]
    except OmegaConfBaseException:
        return "???"


def _callee(node: DictConfig) -> Callable | None:
    """What a node calls, if that is ours."""
    target = _value(node, "_target_") if "_target_" in node else None
    if isinstance(target, str) and target.startswith("co_detr."):
        try:
            target = locate(target)
        except Exception:  # whatever keeps it from being imported: who builds it will say so
            return None
    module = getattr(target, "__module__", None) or ""
    return target if callable(target) and module.startswith("co_detr.") else None


def _check(argument: _Argument) -> None:
    node, name, key, callee = argument
    parameters, takes_others = _parameters(callee)
    if name not in parameters and not takes_others:
        close = difflib.get_close_matches(name, parameters) or sorted(parameters)
        raise ValueError(
            f"{key}: {callee.__name__} takes no argument {name!r}; there is {', '.join(close)}"
        )
    value = _value(node, name)
    is_call = isinstance(value, DictConfig) and "_target_" in value  # of what is not known yet
    if not is_call and value != "???":
        check_value(node, name, parameters.get(name, VALUES.get(name, ANYTHING)), key)


@functools.lru_cache(maxsize=1024)
def _parameters(callee: Callable) -> tuple[dict[str, Kind], bool]:
    """The arguments that a function or class takes, by name, and whether it takes any others.

    What a class does not know goes to its parents, as long as they take what they do not know.
    """
    functions = [callee]
    if inspect.isclass(callee):
        functions = [vars(c)["__init__"] for c in callee.__mro__ if "__init__" in vars(c)]
    found: dict[str, Kind] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        hints = _hints(function)
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self":
                found.setdefault(p.name, _kind(hints.get(p.name, Any), VALUES.get(p.name)))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return found, False
    return found, True


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # a type that is imported for type checkers only
        return {}


def _kind(hint: Any, single: Kind | None) -> Kind:
    """What an annotation lets through, where single values are `single`."""
    plain = {int: whole(), float: number(), str: TEXT}
    if hint in plain:
        return single or plain[hint]
    if hint is bool:
        return SWITCH
    if inspect.isclass(hint) and issubclass(hint, nn.Module):
        return Kind("a call that makes a module", lambda v: isinstance(v, hint))
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return one_of(*inner)
    if origin in (Union, types.UnionType):
        kinds = [_kind(h, single) for h in inner if h is not types.NoneType]
        kind = functools.reduce(_either, kinds)
        return or_null(kind) if types.NoneType in inner else kind
    if origin is Mapping:
        return Kind("values by name", lambda v: isinstance(v, Mapping))
    if origin in (list, tuple, Sequence):
        length = len(inner) if origin is tuple and inner[-1] is not Ellipsis else None
        return _several(_kind(inner[0], single), length)
    return ANYTHING


def _either(a: Kind, b: Kind) -> Kind:
    if ANYTHING in (a, b):
        return ANYTHING
    words = a.words if a.words == b.words else f"{a.words} or {b.words}"
    return Kind(words, lambda v: a.fits(v) or b.fits(v))


def _several(kind: Kind, length: int | None) -> Kind:
    """A list of values, as many as `length` if that is not None."""
    words = f"a list of {length} values" if length else "a list of values"
    return Kind(
        words if kind is ANYTHING else f"{words}, each {kind.words}",
        lambda values: isinstance(values, list | tuple | ListConfig)
        and length in (None, len(values))
        and all(kind.may_be_null if v is None else kind.fits(v) for v in values),
    )
