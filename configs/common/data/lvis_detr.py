"""LVIS v1 with the augmentation of DETR and repeat factors."""

from .coco_detr import dataloader
from .lvis import use_lvis

use_lvis(dataloader)
