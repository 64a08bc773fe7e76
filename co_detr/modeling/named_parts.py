"""A dict of parts that a LazyConfig can build."""

from torch import nn


def named_parts(**parts: nn.Module) -> dict[str, nn.Module]:
    """Return the parts by name. `instantiate` builds the children of calls, not of plain dicts.

    Parts that are None are left out, as a command line can set a part to null, but not delete it.
    """
    return {name: part for name, part in parts.items() if part is not None}
