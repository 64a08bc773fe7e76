"""COCO 2017 with the augmentation of DETR, and instance masks."""

from .coco_detr import dataloader
from .masks import use_masks

use_masks(dataloader)
