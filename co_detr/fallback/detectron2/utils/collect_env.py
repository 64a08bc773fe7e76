"""A description of the machine and the installed versions, for the head of a log."""

import importlib.metadata
import os
import platform
import sys

import numpy
import torch
from tabulate import tabulate

import detectron2

__all__ = ["collect_env_info"]

_PACKAGES = ("torchvision", "timm", "fvcore", "iopath", "omegaconf", "pycocotools", "Pillow")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def collect_env_info() -> str:
    """Return a table of platform, versions and GPUs."""
    rows = [
        ("platform", platform.platform()),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", numpy.__version__),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
        ("torch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("torch CUDA build", torch.version.cuda or "none"),
        ("GPU available", torch.cuda.is_available()),
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB"
        rows.append((f"GPU {index}", f"{gpu.name} (arch={gpu.major}.{gpu.minor}, {memory})"))
    rows += [(package, _version(package)) for package in _PACKAGES]
    return tabulate(rows)
