"""Configs that are Python files: they describe calls and import each other by relative imports."""

from __future__ import annotations

import builtins
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode
from omegaconf.errors import InterpolationKeyError

from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string, locate

from ._yaml import PartialCall, PythonName, dump_yaml, find_name, is_dtype, load_yaml

__all__ = ["LazyCall", "LazyConfig"]

_PACKAGE = "detectron2._lazy_config"
"""Package name given to config files; tells their relative imports apart from all others."""

_OBJECTS = {"allow_objects": True}


class LazyCall:
    """Describes a call instead of making it: `LazyCall(nn.Linear)(in_features=2, out_features=3)`.

    The description is a `DictConfig` of the arguments and `_target_`, for `instantiate`.

    Args:
        target: a callable, its dotted name, or the description of a call that returns one.

    Raises:
        TypeError: if it is none of these.
    """

    def __init__(self, target: Callable | str | Mapping):
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(f"the target must be a callable or its dotted name, got {target!r}")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        target = self._target
        if is_dataclass(target):  # as a value, omegaconf would make a config of its fields
            target = _convert_target_to_string(target)
        return DictConfig({**kwargs, "_target_": target}, flags=_OBJECTS)


def _to_config(value: Any) -> Any:
    return DictConfig(value, flags=_OBJECTS) if isinstance(value, dict) else value


def _run_file(path: str) -> ModuleType:
    """Execute a config file as a module that is registered nowhere."""
    with PathManager.open(path, "rb") as f:  # bytes: in the encoding that Python reads them in
        code = compile(f.read(), path, "exec")
    module = ModuleType(f"{_PACKAGE}.{os.path.splitext(os.path.basename(path))[0]}")
    module.__file__ = path
    module.__package__ = _PACKAGE
    exec(code, module.__dict__)
    return module


def _imported_path(importer: str, name: str, level: int) -> str:
    """Return the file meant by a relative import.

    Args:
        importer: path of the importing file.
        name: dotted name after the leading dots.
        level: number of leading dots.
    """
    folder = importer
    for _ in range(level):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split(".")) + ".py"
    if not name or not PathManager.isfile(path):
        hint = "; name a file in the folder" if PathManager.isdir(path[: -len(".py")]) else ""
        raise ImportError(f"{importer} imports {'.' * level}{name}, but {path} is no file{hint}")
    return path


@contextmanager
def _relative_imports() -> Iterator[None]:
    """Let config files import each other by path, whether or not they are in a package.

    Every import executes the file anew, so a config may edit what it imports.
    """
    original = builtins.__import__

    def import_(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 or (globals or {}).get("__package__") != _PACKAGE:
            return original(name, globals, locals, fromlist, level)
        module = _run_file(_imported_path(globals["__file__"], name, level))
        for key in module.__dict__ if "*" in fromlist else fromlist:
            if not key.startswith("__") and key in module.__dict__:
                module.__dict__[key] = _to_config(module.__dict__[key])
        return module

    builtins.__import__ = import_
    try:
        yield
    finally:
        builtins.__import__ = original


class LazyConfig:
    """Loads, saves and edits configs."""

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Load a config file.

        Args:
            filename: .py, .yaml or .yml.
            keys: names wanted; None for all mappings and config objects of a Python file whose
                names have no leading underscore, or all of a yaml file.

        Returns:
            DictConfig: everything; for one name its object, for a tuple a tuple of objects.

        Raises:
            ValueError: for other kinds of files.
            KeyError: if a name is not in the file.
        """
        if "://" not in filename:
            filename = os.path.abspath(filename)
        if filename.endswith(".py"):
            with _relative_imports():
                content = vars(_run_file(filename))
        elif filename.endswith((".yaml", ".yml")):
            with PathManager.open(filename, "rb") as f:
                content = OmegaConf.create(load_yaml(f) or {}, flags=_OBJECTS)
        else:
            raise ValueError(f"a config is a .py, .yaml or .yml file, not {filename}")

        if keys is None:
            if isinstance(content, DictConfig):
                return content
            kinds = (DictConfig, ListConfig, dict)
            named = {k: v for k, v in content.items() if isinstance(v, kinds) and k[0] != "_"}
            return DictConfig({k: _to_config(v) for k, v in named.items()}, flags=_OBJECTS)
        names = (keys,) if isinstance(keys, str) else keys
        for name in names:
            if name not in content:
                raise KeyError(f"{filename} has no {name!r}")
        objects = tuple(_to_config(content[name]) for name in names)
        return objects[0] if isinstance(keys, str) else objects

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Like `load`, for a path relative to the file that calls this."""
        caller = sys._getframe(1).f_code.co_filename
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: DictConfig | ListConfig, filename: str) -> None:
        """Write a config as yaml that `load` and `instantiate` understand.

        Interpolations stay unresolved, but have to lead somewhere. Classes and functions are
        written by their names, dataclass objects as calls that return them. What cannot be
        expressed that way (lambdas, tensors, ...) is replaced by its text form, with a warning.

        Raises:
            InterpolationKeyError: an interpolation points to a key that the config does not have.
        """
        try:
            OmegaConf.to_container(cfg, resolve=True)
        except InterpolationKeyError as error:
            raise InterpolationKeyError(
                f"{filename} cannot be saved: {error}\nIf that is a variable that only helps to "
                "write the config, let its name begin with an underscore"
            ) from error
        content = OmegaConf.to_container(
            cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE
        )
        lost: list[str] = []
        plain = _plain(content, "", lost)
        if lost:
            logging.getLogger(__name__).warning(
                f"{filename} cannot be instantiated: only the text form of "
                f"{', '.join(lost)} could be saved"
            )
        text = dump_yaml(plain)
        with PathManager.open(filename, "w", encoding="utf-8") as f:
            f.write(text)

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
        """Change values as told by "key.subkey=value" in hydra's grammar.

        Args:
            cfg: changed in place.
            overrides: later ones win. Dictionaries are merged, lists replaced, new keys created.

        Returns:
            DictConfig: `cfg`.

        Raises:
            KeyError: for a key below a value that is no mapping or list.
        """
        for override in OverridesParser.create().parse_overrides(overrides):
            if override.is_delete():
                raise NotImplementedError(f"{override.input_line!r}: keys cannot be deleted")
            key = override.key_or_group
            parts = key.split(".")
            for i in range(1, len(parts)):
                prefix = ".".join(parts[:i])
                parent = OmegaConf.select(cfg, prefix, default=None)
                if parent is None:
                    break
                if not OmegaConf.is_config(parent):
                    raise KeyError(
                        f"cannot set {key!r}: {prefix!r} is the value {parent!r}, "
                        "which has no keys"
                    )
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return cfg


def _plain(value: Any, key: str, lost: list[str]) -> Any:
    """Return a value made of what `dump_yaml` writes.

    Args:
        value: anything.
        key: dotted key of the value.
        lost: gets the keys of what has no such form.
    """
    if isinstance(value, dict):
        inner = {k: _plain(v, f"{key}.{k}".lstrip("."), lost) for k, v in value.items()}
        if callable(value.get("_target_")):
            name = _found_name(value["_target_"])
            inner["_target_"] = inner["_target_"] if name is None else str(name)
        return inner
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{key}.{i}".lstrip("."), lost) for i, v in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a number of numpy or torch
    if value is None or isinstance(value, (bool, bytes)):
        return value
    for kind in (int, float):
        if isinstance(value, kind):  # or a subclass, which yaml does not know
            return kind(value)
    if isinstance(value, (str, os.PathLike)):
        return str.__str__(os.fspath(value))
    if is_dataclass(value) and not isinstance(value, type):
        fields = {**vars(value), "_target_": type(value)}
        return _plain(fields, key, lost)
    if isinstance(value, functools.partial):
        function = _plain(value.func, key, [])
        if isinstance(function, PythonName):
            arguments = (_plain(part, key, lost) for part in (value.args, value.keywords))
            return PartialCall(function, *arguments)
    name = _found_name(value)
    if name is None:
        lost.append(key or "the config")
        return repr(value)
    try:
        if name.rpartition(".")[0] in sys.modules and find_name(name) == value:
            return PythonName(name)
    except ValueError:
        pass
    # what is inside of a class or of Python itself, no `!!python/name:` of detectron2 or ours finds
    return {"_target_": f"{locate.__module__}.{locate.__name__}", "name": name}


def _found_name(value: Any) -> str | None:
    """The name under which `locate` finds a class or function; None if it finds none."""
    if is_dtype(value):
        return str(value)
    if not (callable(value) and hasattr(value, "__qualname__") and value.__module__):
        return None
    for name in (_convert_target_to_string(value), f"{value.__module__}.{value.__name__}"):
        try:
            if locate(name) == value:
                return name
        except (ImportError, AttributeError):
            pass
    return None
