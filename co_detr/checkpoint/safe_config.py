"""Read the config of a model from a file that nobody vouches for.

A lazy config can call anything by its name, so that building what a file asks for would be running
what it asks for. Here a config may name modules of the packages in `PACKAGES` and a few functions
that the configs of the zoo need (`FUNCTIONS`). It is refused by name if it asks for anything else,
and what was looked at is what is called: names are replaced by the objects that they were found to
stand for. Nor may it have files read or fetched.

This keeps a file from running code and from reaching other files. It does not keep it from asking
for a model that is too large for the machine.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from co_detr.config_text import LOCATE

from .pretrained import READS_WEIGHTS, inner_nodes

PACKAGES = (
    "co_detr.inference.fusion",
    "co_detr.inference.tta",
    "co_detr.modeling",
    "co_detr.ops.soft_nms",
    "detectron2.layers",
    "detectron2.modeling",
    "timm.layers",
    "timm.models",
    "torch.nn.modules",
)
"""Where the classes are defined that a config may name; `torch.nn` has its own from there."""

EXCEPT = ("detectron2.modeling.mmdet_wrapper",)
"""Where they are not: this builds what the registries of mmdetection hold, from files, too."""

FUNCTIONS = (
    "co_detr.modeling.aux_heads.base.aux_loss_weight",
    "co_detr.modeling.named_parts.named_parts",
    "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
    "detectron2.modeling.backbone.resnet.ResNet.make_stage",
)
"""What else it may call, by the names under which it is defined."""

RELATIVE = re.compile(r"\$\{(\.+)[A-Za-z_]\w*(\.\w+)*\}")
"""An interpolation by a path from where it stands, such as "${..neck.out_channels}"; the first
group has its dots."""

# Those of whom the modules alone are meant: their other classes are tools for many things.
_MODULES_ONLY = ("co_detr.inference.tta", "timm.layers", "timm.models", "torch.nn.modules")
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # knows no tags of Python
_MOST_TEXT = 2**20  # characters; those of the zoo have 5,000


class UnsafeConfigError(ValueError):
    """A config in a file asks for more than the modules of a detector.

    Attributes:
        reason: what it asks for, and where.
    """

    def __init__(self, path: str, reason: str):
        self.reason = reason
        super().__init__(
            f"{path}: its model config {reason}. Nothing of it was built. If you know the model, "
            "give its config yourself: config_file=... or --config-file"
        )


def read_model_config(text: str, path: str) -> DictConfig:
    """The config of a model, of which `instantiate` builds nothing but modules of detectors.

    Args:
        text: YAML, as `model_card.model_text` writes it.
        path: of the file that it is from, for messages.

    Returns:
        The config; its targets are classes and functions, its interpolations stay.

    Raises:
        UnsafeConfigError: it names other than modules of `PACKAGES` and `FUNCTIONS`, would have a
            file read or fetched, or is no plain YAML; says what and where.
    """
    tree = _parsed(text, path)
    try:
        for key, value in _walk(tree, ""):
            _check_value(key, value, path)
        cfg = OmegaConf.create(_with_objects(tree, "model", path), flags={"allow_objects": True})
        _check_interpolations(cfg, path)
        for key, value in _walk(OmegaConf.to_container(cfg, resolve=True), ""):
            if isinstance(value, dict):
                _check_reads_nothing(key, value, path)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UnsafeConfigError(path, f"cannot be read ({error})") from error
    return cfg


def allowed_object(name: str) -> type | Callable | None:
    """The class or function of a dotted name, if a config from a file may name it; else None.

    It has to be reached by packages and classes alone, and what counts is where it is defined, not
    which module has imported it.
    """
    if not _NAME.fullmatch(name) or not _within(name, (*PACKAGES, "torch.nn")):
        return None
    found = _find(name.split("."))
    if found is None or _within(found.__module__, EXCEPT):
        return None
    if not isinstance(found, type):
        return found if f"{found.__module__}.{found.__qualname__}" in FUNCTIONS else None
    if not _within(found.__module__, PACKAGES):
        return None
    if _within(found.__module__, _MODULES_ONLY) and not issubclass(found, nn.Module):
        return None
    return found


def _parsed(text: str, path: str) -> dict:
    """The YAML as dicts, lists and plain values; no tags and no aliases, which could repeat without
    end what is short as text."""
    if len(text) > _MOST_TEXT:
        raise UnsafeConfigError(path, f"has {len(text)} characters, more than a model needs")
    try:
        aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader))
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise UnsafeConfigError(path, f"is no plain YAML ({message})") from error
    if aliases:
        raise UnsafeConfigError(path, "has aliases of YAML (*name)")
    if not isinstance(tree, dict) or "_target_" not in tree:
        raise UnsafeConfigError(path, "describes no call of a model (_target_)")
    return tree


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """A value and all values in it, by dotted keys."""
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk(inner, f"{key}.{number}".lstrip("."))


def _check_value(key: str, value: Any, path: str) -> None:
    """Raise for what no config of a model holds, whatever it is the argument of."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or (name.startswith("_") and name != "_target_"):
                raise UnsafeConfigError(path, f"has the key {name!r} in {key or 'model'}")
    elif isinstance(value, str):
        if "${" in value and not RELATIVE.fullmatch(value):
            raise UnsafeConfigError(path, f"asks for {value!r} in {key}")
    elif not (value is None or isinstance(value, bool | int | float | list)):
        raise UnsafeConfigError(path, f"has a {type(value).__name__} in {key}")


def _check_interpolations(node: DictConfig | ListConfig, path: str) -> None:
    """Raise for an interpolation that stands for more than a value or a list of values."""
    for key, inner in inner_nodes(node):
        if inner._is_interpolation():
            value = node[key]
            entries = inner_nodes(value) if isinstance(value, ListConfig) else ()
            if isinstance(value, DictConfig) or any(
                OmegaConf.is_config(entry) or entry._is_interpolation() for _, entry in entries
            ):
                raise UnsafeConfigError(path, f"has {inner._value()!r} stand for a whole section")
        elif isinstance(inner, DictConfig | ListConfig) and inner._value() is not None:
            _check_interpolations(inner, path)


def _check_reads_nothing(key: str, arguments: dict, path: str) -> None:
    """Raise for arguments, here without interpolations, by which a module would read a file."""
    for name in READS_WEIGHTS:
        if arguments.get(name):
            where = f"{key}.{name}".lstrip(".")
            raise UnsafeConfigError(path, f"has {arguments[name]!r} read or fetched by {where}")
    model = arguments.get("model_name")
    if model is not None and not (isinstance(model, str) and re.fullmatch(r"[\w.\-]+", model)):
        raise UnsafeConfigError(path, f"has {model!r} as the name of a timm model in {key}")
    if "cfg" in arguments:  # by which modules of detectron2 build what its registries hold
        raise UnsafeConfigError(path, f"has the argument 'cfg' in {key or 'model'}")


def _with_objects(value: Any, key: str, path: str) -> Any:
    """The same with classes and functions in place of their names."""
    if isinstance(value, list):
        return [_with_objects(inner, f"{key}.{i}", path) for i, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if value.get("_target_") == LOCATE and set(value) == {"_target_", "name"}:
        found = _checked(value["name"], key, path)
        return value if is_dataclass(found) else found
    built = {name: _with_objects(v, f"{key}.{name}", path) for name, v in value.items()}
    if "_target_" in value:
        found = _checked(value["_target_"], key, path)
        # omegaconf would take a dataclass itself for the description of a section
        defined = f"{found.__module__}.{found.__qualname__}"
        built["_target_"] = defined if is_dataclass(found) else found
    return built


def _checked(name: Any, key: str, path: str) -> type | Callable:
    found = allowed_object(name) if isinstance(name, str) else None
    if found is None:
        raise UnsafeConfigError(
            path,
            f"names {name!r} in {key}, which is none of what a config in a file may build: modules "
            "of co_detr.modeling, detectron2.modeling, detectron2.layers, torch.nn and timm",
        )
    return found


def _find(parts: list[str]) -> type | Callable | None:
    """The class or function of an importable module, or of a class there, that has this name."""
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:
            name = getattr(error, "name", None)
            if name is not None and f"{module}.".startswith(f"{name}."):
                continue  # it is no module, but perhaps a class
            return None
        for number, part in enumerate(parts[length:]):
            if number > 0 and not isinstance(found, type):  # such as a module that it imports
                return None
            found = getattr(found, part, None)
        has_home = hasattr(found, "__module__") and hasattr(found, "__qualname__")
        return found if has_home and callable(found) else None
    return None


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)
