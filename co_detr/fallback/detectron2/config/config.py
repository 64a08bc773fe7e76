"""Configs of named values."""

from fvcore.common.config import CfgNode

__all__ = ["CfgNode", "get_cfg"]


def get_cfg() -> CfgNode:
    """Return a new copy of the default config."""
    from .defaults import _C

    return _C.clone()
