"""Loaders and registration of COCO-style and LVIS-style datasets; registers the builtin ones."""

from . import builtin  # noqa: F401  registers COCO and LVIS
from .coco import load_coco_json, register_coco_instances
from .lvis import load_lvis_json, register_lvis_instances

__all__ = [
    "load_coco_json",
    "load_lvis_json",
    "register_coco_instances",
    "register_lvis_instances",
]
