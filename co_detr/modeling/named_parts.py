"""A dict of parts that a LazyConfig can build."""

from torch import nn


def named_parts(**parts: nn.Module) -> dict[str, nn.Module]:
    """Return the parts by name. `instantiate` builds the children of calls, not of plain dicts."""
    return parts
