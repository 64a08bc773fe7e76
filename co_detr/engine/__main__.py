"""Trains and evaluates as `tools/lazyconfig_train_net.py` does: `python -m co_detr.engine`."""

import co_detr  # noqa: F401, I001  (makes detectron2 importable)
from .launch import run

if __name__ == "__main__":
    run()
