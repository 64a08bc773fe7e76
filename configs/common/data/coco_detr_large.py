"""COCO 2017 with the augmentation of DETR at the sizes of large models, tested at 1280x2048.

Longer sides are bounded by 2048 as for Swin-L; ViT-L has
`dataloader.train.mapper.augmentations.max_size = 2400`.
"""

from .coco_detr import dataloader

dataloader.train.mapper.augmentations.short_sides = list(range(480, 1537, 32))
dataloader.train.mapper.augmentations.max_size = 2048

_resize = dataloader.test.mapper.augmentations[0]
_resize.short_edge_length = 1280
_resize.max_size = 2048
