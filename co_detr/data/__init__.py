"""Datasets, augmentation and the training loader. Importing it registers the digits dataset."""

from co_detr.data import digits as _digits  # noqa: F401
from co_detr.data.augmentation import RandomChoice, ResizeShortestEdge, detr_augmentation
from co_detr.data.dataset import load_dataset
from co_detr.data.loader import build_train_loader

__all__ = [
    "RandomChoice",
    "ResizeShortestEdge",
    "build_train_loader",
    "detr_augmentation",
    "load_dataset",
]
