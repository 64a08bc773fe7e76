"""The arguments of calls in a config: a wrong one would end in an error that does not name it, far
away, or in none.

Types are those of the annotations, as far as there are any. Of what is ours we know more: what a
value has to be by the name of its argument (`VALUES`), which means the same wherever it is used;
and which values have to be equal (`EQUAL`).
"""

import difflib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from .settings import SWITCH, TEXT, Kind, check_value, number, one_of, or_null, whole

COUNT, COUNT_OR_ZERO = whole(1, sys.maxsize), whole(0, sys.maxsize)
FRACTION, WEIGHT = number(0, 1), number(0)
POSITIVE = Kind("a number above 0", lambda v: number(0).fits(v) and v > 0)
ALPHA = Kind("a number from 0 to 1, or -1", lambda v: v == -1 or FRACTION.fits(v))
ANYTHING = Kind("anything", lambda v: True, may_be_null=True)
MODULE = Kind("a call that makes a module", lambda v: isinstance(v, nn.Module))
PLAIN = {int: whole(most=sys.maxsize), float: number(), str: TEXT, nn.Module: MODULE}
# Libraries annotate steps with int that may be fractions of one, and limits that may be infinite.
ANY_NUMBER = Kind("a number", lambda v: isinstance(v, Real))
PLAIN_OF_LIBRARIES = {int: ANY_NUMBER, float: ANY_NUMBER, str: TEXT}

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
        COUNT_OR_ZERO,
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
    ("model.aux_heads.", "in_channels", "model.pyramid.embed_dim"),
)
"""Section, name and another key: arguments of that name in the section, but for the backbone's,
have to be what the key says."""

# where there is nothing to evaluate on; the evaluator asks the dataset for its name
MAY_BE_NULL = ("dataloader.test.dataset.names", "dataloader.evaluator.dataset_name")
OURS, LIBRARIES, BACKBONE = "co_detr.", ("detectron2.", "fvcore."), "model.backbone."


class _Call(NamedTuple):
    """A call in a config."""

    key: str  # where it is
    node: DictConfig
    callee: Callable | None  # None if we do not know it

    @property
    def is_ours(self) -> bool:
        return self.callee is not None and _is_ours(self.callee)

    @property
    def is_part(self) -> bool:
        """Whether it makes a part of the model, or all of it, but not of the backbone."""
        return f"{self.key}.".startswith("model.") and not f"{self.key}.".startswith(BACKBONE)

    def names(self) -> list[str]:
        return [str(name) for name in self.node if name != "_target_"]


def check_arguments(cfg: DictConfig) -> None:
    """Check the arguments of all calls in a config of what is ours, detectron2's or fvcore's.

    Whole numbers that are written as floats, such as 3e2, become whole ones in it.

    Raises:
        ValueError: one has a wrong value, or another than it must have in common with others, or is
            none of the arguments there are; names it.
    """
    calls = list(_calls(cfg))
    known = [(call, name) for call in calls if call.callee is not None for name in call.names()]
    # where a value is written before where it is pointed to: there it is to be changed
    for call, name in sorted(known, key=lambda x: OmegaConf.is_interpolation(x[0].node, x[1])):
        _check(call, name)
    parts = [call for call in calls if call.is_part]
    if all(call.is_ours for call in parts):  # or who knows what comes out of those of others
        for call in parts:
            _check_equal(cfg, call)


def _calls(cfg: Any, path: str = "") -> Iterator[_Call]:
    """The calls in the part of a config at `path`."""
    if not isinstance(cfg, DictConfig | ListConfig) or cfg._is_missing() or cfg._is_none():
        return
    if isinstance(cfg, ListConfig):
        for index in range(len(cfg)):
            yield from _calls(_value(cfg, index), f"{path}[{index}]")
        return
    if _is_call(cfg):
        yield _Call(path, cfg, _callee(cfg))
    for name in map(str, cfg):
        yield from _calls(_value(cfg, name), f"{path}.{name}".lstrip("."))


def _value(cfg: DictConfig | ListConfig, key: Any) -> Any:
    """A value of a config, "???" where it points to nothing: who builds it will say so."""
    try:
        return cfg[key]
    except OmegaConfBaseException:
        return "???"


def _is_call(value: Any) -> bool:
    """Whether a value is one of what is known only after a call."""
    return isinstance(value, DictConfig) and "_target_" in value


def _callee(node: DictConfig) -> Callable | None:
    """What a node calls, if we know it."""
    target, known = _value(node, "_target_"), (OURS, *LIBRARIES)
    if isinstance(target, str) and target.startswith(known):
        try:
            target = locate(target)
        except Exception:  # whatever keeps it from being imported: who builds it will say so
            return None
    module = getattr(target, "__module__", None) or ""
    return target if callable(target) and module.startswith(known) else None


def _is_ours(callee: Callable) -> bool:
    return callee.__module__.startswith(OURS)


def _check(call: _Call, name: str) -> None:
    assert call.callee is not None
    parameters, takes_others = _parameters(call.callee)
    if name not in parameters and not takes_others:
        close = difflib.get_close_matches(name, parameters) or sorted(parameters)
        raise ValueError(
            f"{call.key}.{name}: {call.callee.__name__} takes no argument {name!r}; there is "
            f"{', '.join(close)}"
        )
    value = _value(call.node, name)
    if value is None and f"{call.key}.{name}" in MAY_BE_NULL:
        return
    if not _is_call(value) and value != "???":
        default = VALUES.get(name, ANYTHING) if call.is_ours else ANYTHING
        check_value(call.node, name, parameters.get(name, default), f"{call.key}.{name}")


def _check_equal(cfg: DictConfig, call: _Call) -> None:
    for section, name, reference in EQUAL:
        if name not in call.node or not f"{call.key}.".startswith(section):
            continue
        value = _value(call.node, name)
        common = OmegaConf.select(cfg, reference, throw_on_resolution_failure=False)
        if {type(value), type(common)} == {int} and value != common:
            raise ValueError(
                f"{call.key}.{name}={value}, but {reference}={common}: make them the same"
            )


@functools.lru_cache(maxsize=1024)
def _parameters(callee: Callable) -> tuple[dict[str, Kind], bool]:
    """The arguments that a function or class takes, by name, and whether it takes any others.

    What a class does not know goes to its parents, as long as they take what they do not know.
    """
    if hasattr(callee, "__wrapped__") or hasattr(getattr(callee, "__init__", None), "__wrapped__"):
        return {}, True  # such as detectron2's `configurable`, which takes a config as well
    values, plain = (VALUES, PLAIN) if _is_ours(callee) else ({}, PLAIN_OF_LIBRARIES)
    functions = [callee]
    if inspect.isclass(callee):
        functions = [vars(c)["__init__"] for c in callee.__mro__ if "__init__" in vars(c)]
    found: dict[str, Kind] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        hints = _hints(function)
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self":
                found.setdefault(p.name, _kind(hints.get(p.name, Any), plain, values.get(p.name)))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return found, False
    return found, True


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # a type that is imported for type checkers only
        return {}


def _kind(hint: Any, plain: Mapping[type, Kind], single: Kind | None) -> Kind:
    """What an annotation lets through, where single values are `single`, or as `plain` says."""
    if hint is bool:
        return SWITCH
    if hint in (int, float, str):
        return single or plain[hint]
    if inspect.isclass(hint) and issubclass(hint, nn.Module):
        return plain.get(nn.Module, ANYTHING)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return one_of(*inner)
    if origin in (Union, types.UnionType):
        kinds = [_kind(h, plain, single) for h in inner if h is not types.NoneType]
        kind = functools.reduce(_either, kinds)
        return or_null(kind) if types.NoneType in inner else kind
    if origin is Mapping:
        return Kind("values by name", lambda v: isinstance(v, Mapping))
    if origin in (list, tuple, Sequence):
        length = len(inner) if origin is tuple and inner[-1] is not Ellipsis else None
        return _several(_kind(inner[0], plain, single), length, may_be_empty=single is None)
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
        lambda values: isinstance(values, Sequence)
        and not isinstance(values, str)
        and length in (None, len(values))
        and (may_be_empty or len(values) > 0)
        and all(kind.may_be_null if v is None else _is_call(v) or kind.fits(v) for v in values),
    )
