"""Training and evaluation by a lazy config, as `tools/lazyconfig_train_net.py` runs them."""

from .checkpoint import WholeFileCheckpointer
from .hooks import BestCheckpointer, PeriodicCheckpointer
from .train import do_test, do_train, main, setup
from .trainer import Trainer

__all__ = [
    "BestCheckpointer",
    "PeriodicCheckpointer",
    "Trainer",
    "WholeFileCheckpointer",
    "do_test",
    "do_train",
    "main",
    "setup",
]
