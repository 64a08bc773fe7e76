"""Trains and evaluates as `tools/lazyconfig_train_net.py` does: `python -m co_detr.engine`."""

import sys

import co_detr  # noqa: F401, I001  (makes detectron2 importable)

from .launch import run

if __name__ == "__main__":
    sys.argv[0] = "python -m co_detr.engine"  # as help shows it
    run()
