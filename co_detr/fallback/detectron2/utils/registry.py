"""Objects by name: registries of builders, and Python objects by their dotted name."""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Import and return the object of a dotted name such as "torch.nn.Linear".

    Raises:
        ImportError: if there is no such object, or its module cannot be imported.
    """
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise ImportError(f"importing {name!r} failed: {error}") from error
    if found is None:
        raise ImportError(
            f"cannot find {name!r}; check its spelling and that its package can be imported"
        )
    return found


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
            if locate(candidate) is target:
                return candidate
        except ImportError:
            pass
    return f"{module}.{name}"
