"""Lazy configs as text: callables by their dotted names, everything else as YAML has it."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from omegaconf import DictConfig, OmegaConf, SCMode

LOCATE = "detectron2.utils.registry.locate"
"""The call that stands, in text, for a class or function that is a value."""


def bind(function: Callable, **keywords: Any) -> Callable:
    """`functools.partial` as a config can describe it."""
    return functools.partial(function, **keywords)


def to_text(lazy_cfg: DictConfig) -> str:
    """YAML of a lazy config, interpolations as they are, callables by their dotted names.

    Raises:
        ValueError: a value cannot be written as text; names its key.
    """
    content = OmegaConf.to_container(
        lazy_cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE
    )
    return OmegaConf.to_yaml(OmegaConf.create(plain(content, "")))


def plain(value: Any, key: str) -> Any:
    """A value at the dotted `key` made of dicts, lists, strings and numbers.

    Raises:
        ValueError: it holds what cannot be written so; names its key.
    """
    if isinstance(value, Mapping):
        written = {k: plain(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
        target = written.get("_target_")
        if isinstance(target, dict) and target["_target_"] == LOCATE:
            written["_target_"] = target["name"]  # `instantiate` looks names up itself
        return written
    if isinstance(value, list | tuple):
        return [plain(v, f"{key}.{i}") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, functools.partial) and not value.args:
        described = {"_target_": bind, "function": value.func, **value.keywords}
        return plain(described, key)
    if callable(value) and hasattr(value, "__qualname__"):
        return _reference(value, key)
    raise ValueError(f"{key}={value!r} is no text, number or callable: describe it by a LazyCall")


def _reference(value: Callable, key: str) -> dict[str, str]:
    """A call that returns a given class or function."""
    name = _dotted_name(value)
    if name is not None:
        return {"_target_": LOCATE, "name": name}
    # what a config file defines is in no module, but the file can be loaded again
    file = _source_file(value)
    if file is None or not value.__qualname__.isidentifier():
        methods = ", a class with a method of its own" if isinstance(value, type) else ""
        raise ValueError(
            f"{key}={value!r} cannot be found again by its name: define it at the top level of a "
            f"module that can be imported, or of the config file{methods}"
        )
    return {
        "_target_": "detectron2.config.LazyConfig.load",
        "filename": file,
        "keys": value.__qualname__,
    }


def _dotted_name(value: Callable) -> str | None:
    """The shortest name of what is in a module, which outlives a change of private modules."""
    module = (value.__module__ or "").split(".")  # upstream gives functions of config files none
    for length in range(1, len(module) + 1):
        package = ".".join(module[:length])
        try:
            if attrgetter(value.__qualname__)(sys.modules.get(package)) == value:
                return f"{package}.{value.__qualname__}"
        except AttributeError:
            pass
    return None


def _source_file(value: Callable) -> str | None:
    """The Python file that a function, or a method of a class, was read from."""
    members = vars(value).values() if isinstance(value, type) else [value]
    for member in members:
        function = inspect.unwrap(getattr(member, "__func__", member))
        code = getattr(function, "__code__", None)
        if code is not None and function.__qualname__.startswith(value.__qualname__):
            path = os.path.abspath(code.co_filename)
            if path.endswith(".py") and os.path.isfile(path):
                return path
    return None
