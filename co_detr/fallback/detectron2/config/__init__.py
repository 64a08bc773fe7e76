"""Lazy configs, which describe calls in Python files, and yacs configs of named values."""

from .config import CfgNode, get_cfg
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["CfgNode", "LazyCall", "LazyConfig", "get_cfg", "instantiate"]
