"""Random state of a process."""

import logging
import os
import random
import secrets

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the generators of Python, NumPy and torch (all devices).

    Args:
        seed: in [0, 2**32); None chooses one at random and logs it.
    """
    if seed is None:
        seed = secrets.randbits(31)
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)  # for processes started from here
