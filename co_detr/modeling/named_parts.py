"""Parts of a model by name: made by a LazyConfig, held by a model."""

from collections.abc import Mapping

from torch import nn


def named_parts(**parts: nn.Module) -> dict[str, nn.Module]:
    """Return the parts by name. `instantiate` builds the children of calls, not of plain dicts.

    Parts that are None are left out, as a command line can set a part to null, but not delete it.
    """
    return {name: part for name, part in parts.items() if part is not None}


def module_dict(owner: str, parts: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Hold the parts of `model.<owner>`.

    Raises:
        TypeError: one of them is no module.
    """
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            raise TypeError(
                f"{owner}.{name} is {part!r:.80}, wanted is a module: in a config "
                f"model.{owner}.{name} = L(<its class>)(...), or null to do without"
            )
    return nn.ModuleDict(parts)
