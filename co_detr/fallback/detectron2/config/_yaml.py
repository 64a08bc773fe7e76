"""Configs as YAML text, in which classes and functions stand as `!!python/name:torch.nn.ReLU ''`.

detectron2 reads and writes the same tags, but its reader lets a file call any function. This one
looks names up and calls nothing: who calls a described object is `instantiate`.
"""

import functools
import importlib
import sys
from inspect import isclass, ismodule
from typing import IO, Any, NamedTuple

import yaml
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader
from yaml.constructor import ConstructorError

__all__ = ["PartialCall", "PythonName", "dump_yaml", "find_name", "load_yaml"]

_TAG = "tag:yaml.org,2002:python/"
_PARTIAL = _TAG + "object/apply:functools.partial"

_IMPORTED = ("co_detr", "detectron2", "fvcore", "numpy", "timm", "torch", "torchvision")
"""Packages whose modules a name may import; of all others, what is imported already is found."""

_STANDARD = ("builtins", "collections", "functools", "itertools", "math", "operator")
"""What may be named of the standard library: nothing that touches files, processes or code."""


class PythonName(str):
    """The dotted name of a class or function, to be written as `!!python/name:`."""


class PartialCall(NamedTuple):
    """A `functools.partial` to be written: its function by name, its arguments as plain content."""

    function: PythonName
    args: list
    keywords: dict


def find_name(name: str) -> Any:
    """The class, function or torch dtype of a dotted name, for instance of "torch.nn.Linear".

    A name leads from a module to what is defined in it, or in one of its classes; it cannot pass
    through a module that another one happens to import, such as "torch.os.system".

    Raises:
        ValueError: there is no such object, or it is none that a config may name.
    """
    parts = (name if "." in name else f"builtins.{name}").split(".")
    found, depth = _module(parts)
    for part in parts[depth:]:
        if part.startswith("__") or not (isclass(found) or ismodule(found)):
            raise ValueError(f"{name} is no class or function of a module")
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ValueError(f"there is no {name}: {error}") from error
        if ismodule(found):
            raise ValueError(f"{name} passes through a module that it does not name")
    home = (getattr(found, "__module__", None) or parts[0]).split(".")[0]
    known = home in _STANDARD or home not in sys.stdlib_module_names
    if not known or (home == "builtins" and not isclass(found)):
        raise ValueError(
            f"{name} is part of Python's {home}, of which a config may name no more than classes "
            f"of builtins and what is in {', '.join(_STANDARD[1:])}"
        )
    if not (callable(found) or is_dtype(found)):
        raise ValueError(f"{name} is {found!r}, no class or function")
    return found


def is_dtype(value: Any) -> bool:
    """Whether a value is a `torch.dtype`, which `torch` need not be imported for."""
    return (type(value).__module__, type(value).__name__) == ("torch", "dtype")


def load_yaml(stream: IO) -> Any:
    """Read YAML as omegaconf does (no key twice, 1e-3 is a number), and names as said above.

    Raises:
        yaml.YAMLError: for text that is no YAML, tags that would run code, or names that
            `find_name` refuses; tells file and line.
    """
    return yaml.load(stream, Loader=_Loader)  # a subclass of yaml.SafeLoader


def dump_yaml(content: Any) -> str:
    """Write dicts, lists, texts, numbers, `PythonName`s and `PartialCall`s."""
    return yaml.dump(
        content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )


class _Loader(get_yaml_loader()):
    pass


class _Dumper(get_omega_conf_dumper()):
    pass


def _module(parts: list[str]) -> tuple[Any, int]:
    """The module that a split name begins with, and of how many parts its name is."""
    name = ".".join(parts)
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{name!r} is no dotted name")
    for depth in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:depth])
        if parts[0] in _IMPORTED:
            try:
                importlib.import_module(module)
            except ImportError:
                continue
        if module in sys.modules:
            return sys.modules[module], depth
    raise ValueError(
        f"{name} is in no module that is imported: before the config is loaded, import "
        f"{'.'.join(parts[:-1])}"
    )


def _construct_name(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> Any:
    try:
        return find_name(name)
    except ValueError as error:
        raise ConstructorError(None, None, str(error), node.start_mark) from error


def _construct_partial(loader: yaml.SafeLoader, node: yaml.Node) -> functools.partial:
    """A partial function as pyyaml writes it: by its state, or by arguments and keywords."""
    call = loader.construct_mapping(node, deep=True)
    try:
        function, *args = call["args"]
        keywords = call.get("kwds") or {}
        if call.get("state"):
            function, args, keywords, _ = call["state"]
        return functools.partial(function, *args, **keywords)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"a functools.partial of args (a function first) and kwds, got {call}"
        raise ConstructorError(None, None, reason, node.start_mark) from error


def _refuse(loader: yaml.SafeLoader, kind: str, node: yaml.Node) -> None:
    raise ConstructorError(
        None,
        None,
        f"!!python/{kind} asks for running code, which reading a config does not do: describe the "
        "object as a call, by _target_ and its arguments, or load the config from its .py file",
        node.start_mark,
    )


_Loader.add_multi_constructor(_TAG + "name:", _construct_name)
_Loader.add_constructor(
    _TAG + "tuple", lambda loader, node: loader.construct_sequence(node, deep=True)
)
_Loader.add_constructor(_PARTIAL, _construct_partial)
_Loader.add_multi_constructor(_TAG, _refuse)

_Dumper.add_representer(
    PythonName, lambda dumper, name: dumper.represent_scalar(f"{_TAG}name:{name}", "")
)
_Dumper.add_representer(
    PartialCall,
    lambda dumper, call: dumper.represent_mapping(
        _PARTIAL, {"args": [call.function, *call.args], "kwds": call.keywords}
    ),
)
