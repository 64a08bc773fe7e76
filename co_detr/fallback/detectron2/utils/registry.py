"""Objects by name: registries of builders, and Python objects by their dotted name."""

import functools
import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Import and return the object of a dotted name such as "torch.nn.Linear".

    Raises:
        ImportError: if there is no such object. Errors inside a module being imported pass through.
    """
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        module = ".".join(parts[:k])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue  # it is this module that does not exist, not one that it needs
            raise
        # what a package exports under the name of a module of its own goes before the module, as in
        # `detectron2.engine.launch`; but the module's content can be reached, too
        for start, owner in ((1, importlib.import_module(parts[0])), (k, found)):
            try:
                return functools.reduce(getattr, parts[start:], owner)
            except AttributeError as error:
                missing = error
        raise ImportError(
            f"cannot find {name!r}: {missing}; check the spelling of its parts"
        ) from missing
    raise ImportError(f"cannot find {name!r}: no module {parts[0]!r}; install it or fix the name")


def _convert_target_to_string(target: Any) -> str:
    """Return the shortest dotted name under which `locate` finds a class or function.

    "torch.nn.Linear" rather than "torch.nn.modules.linear.Linear", so that saved configs survive
    a reorganization of private modules.
    """
    module, name = target.__module__, target.__qualname__
    parts = module.split(".")
    for k in range(1, len(parts)):
        candidate = ".".join([*parts[:k], name])
        try:
            if locate(candidate) == target:  # a method of a class is a new object each time
                return candidate
        except ImportError:
            pass
    return f"{module}.{name}"
