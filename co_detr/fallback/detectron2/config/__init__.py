"""Lazy configs, which describe calls in Python files, and yacs configs of named values."""

from .config import CfgNode, get_cfg
from .configurable import configurable
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["CfgNode", "LazyCall", "LazyConfig", "configurable", "get_cfg", "instantiate"]
