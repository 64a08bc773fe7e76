"""The arguments of calls in a config: a wrong one would end in an error that does not name it, far
away, or in none.

Types are those of the annotations, as far as there are any. Of what is ours we know more: what a
value has to be by the name of its argument (`VALUES`), which means the same wherever it is used;
and which values have to be equal (`EQUAL`).
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
"""What a single value must be; lists hold one or several."""

EQUAL = (
    ("model.", "num_classes", "model.num_classes"),
    ("model.", "embed_dim", "model.encoder.embed_dim"),
    ("model.decoder.", "num_levels", "model.encoder.num_levels"),
    ("model.aux_heads.", "in_channels", "model.encoder.embed_dim"),
)
"""Section, name and another key: arguments of that name in the section, but for the backbone's,
have to be what the key says."""

LIBRARIES = "detectron2.", "fvcore."


class _Argument(NamedTuple):
    """An argument of a call in a config."""

    node: DictConfig
    name: str
    key: str  # where it is in the config
    callee: Callable

    @property
    def is_ours(self) -> bool:
        return _is_ours(self.callee)


def check_arguments(cfg: DictConfig) -> None:
    """Check the arguments of all calls in a config of what is ours, detectron2's or fvcore's.

    Whole numbers that are written as floats, such as 3e2, become whole ones in it.

    Raises:
        ValueError: one has a wrong value, or another than it must have in common with others, or is
            none of the arguments there are; names it.
    """
    # where a value is written before where it is pointed to: there it is to be changed
    arguments = list(_arguments(cfg))
    for argument in sorted(arguments, key=lambda a: OmegaConf.is_interpolation(a.node, a.name)):
        _check(argument)
    for argument in arguments:
        _check_equal(cfg, argument)


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
    """What a node calls, if we know it."""
    target = _value(node, "_target_") if "_target_" in node else None
    known = "co_detr.", *LIBRARIES
    if isinstance(target, str) and target.startswith(known):
        try:
            target = locate(target)
        except Exception:  # whatever keeps it from being imported: who builds it will say so
            return None
    module = getattr(target, "__module__", None) or ""
    return target if callable(target) and module.startswith(known) else None


def _is_ours(callee: Callable) -> bool:
    return callee.__module__.startswith("co_detr.")


def _check(argument: _Argument) -> None:
    node, name, key, callee = argument
    parameters, takes_others = _parameters(callee)
    if name not in parameters and not takes_others:
        close = difflib.get_close_matches(name, parameters) or sorted(parameters)
        raise ValueError(
            f"{key}: {callee.__name__} takes no argument {name!r}; there is {', '.join(close)}"
        )
    value = _value(node, name)
    if not _is_call(value) and value != "???":
        default = VALUES.get(name, ANYTHING) if argument.is_ours else ANYTHING
        check_value(node, name, parameters.get(name, default), key)


def _is_call(value: Any) -> bool:
    """Whether a value is one of what is known only after a call."""
    return isinstance(value, DictConfig) and "_target_" in value


def _check_equal(cfg: DictConfig, argument: _Argument) -> None:
    if not argument.is_ours or argument.key.startswith("model.backbone."):
        return
    for section, name, reference in EQUAL:
        if name != argument.name or not argument.key.startswith(section):
            continue
        value = _value(argument.node, name)
        common = OmegaConf.select(cfg, reference, throw_on_resolution_failure=False)
        if {type(value), type(common)} == {int} and value != common:
            raise ValueError(
                f"{argument.key}={value}, but {reference}={common}: make them the same"
            )


@functools.lru_cache(maxsize=1024)
def _parameters(callee: Callable) -> tuple[dict[str, Kind], bool]:
    """The arguments that a function or class takes, by name, and whether it takes any others.

    What a class does not know goes to its parents, as long as they take what they do not know.
    """
    if hasattr(callee, "__wrapped__") or hasattr(getattr(callee, "__init__", None), "__wrapped__"):
        return {}, True  # such as detectron2's `configurable`, which takes a config as well
    values = VALUES if _is_ours(callee) else {}
    functions = [callee]
    if inspect.isclass(callee):
        functions = [vars(c)["__init__"] for c in callee.__mro__ if "__init__" in vars(c)]
    found: dict[str, Kind] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        hints = _hints(function)
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self":
                found.setdefault(p.name, _kind(hints.get(p.name, Any), values.get(p.name)))
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
        return _several(_kind(inner[0], single), length, may_be_empty=single is None)
    return ANYTHING


def _either(a: Kind, b: Kind) -> Kind:
    if ANYTHING in (a, b):
        return ANYTHING
    words = a.words if a.words == b.words else f"{a.words} or {b.words}"
    return Kind(words, lambda v: a.fits(v) or b.fits(v))


def _several(kind: Kind, length: int | None, may_be_empty: bool) -> Kind:
    """A list of values, as many as `length` if that is not None."""
    number = length or (None if may_be_empty else "one or more")
    words = f"a list of {number} values" if number else "a list of values"
    return Kind(
        words if kind is ANYTHING else f"{words}, each {kind.words}",
        lambda values: isinstance(values, list | tuple | ListConfig)
        and length in (None, len(values))
        and (may_be_empty or len(values) > 0)
        and all(kind.may_be_null if v is None else _is_call(v) or kind.fits(v) for v in values),
    )
