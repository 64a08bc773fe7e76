"""Training and evaluation by a lazy config, as `tools/lazyconfig_train_net.py` runs them.

Names are imported when they are first used, so that a command line is read before torch is loaded.
"""

import importlib
from typing import Any

_MODULES = {
    "BestCheckpointer": "hooks",
    "PeriodicCheckpointer": "hooks",
    "Trainer": "trainer",
    "WholeFileCheckpointer": "checkpoint",
    "do_test": "train",
    "do_train": "train",
    "main": "train",
    "setup": "train",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
