"""Datasets, augmentation and the data loaders.

Importing it registers the digits and trees datasets and Objects365.
"""

import co_detr.paths  # noqa: F401  teaches detectron2 what `~` is
from co_detr.data import digits as _digits  # noqa: F401
from co_detr.data import objects365 as _objects365  # noqa: F401
from co_detr.data import trees as _trees  # noqa: F401
from co_detr.data.augmentation import RandomChoice, ResizeShortestEdge, detr_augmentation
from co_detr.data.copy_paste import CopyPaste
from co_detr.data.dataset import load_dataset
from co_detr.data.large_scale_jitter import large_scale_jitter
from co_detr.data.loader import build_test_loader, build_train_loader
from co_detr.data.mapper import DetectionMapper
from co_detr.data.own import register_split
from co_detr.data.pictures import UnreadablePicture, picture_size, read_picture

__all__ = [
    "CopyPaste",
    "DetectionMapper",
    "RandomChoice",
    "ResizeShortestEdge",
    "UnreadablePicture",
    "build_test_loader",
    "build_train_loader",
    "detr_augmentation",
    "large_scale_jitter",
    "load_dataset",
    "picture_size",
    "read_picture",
    "register_split",
]
