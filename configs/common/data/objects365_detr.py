"""Objects365 v2 with the augmentation of DETR at the sizes of large models."""

from .coco_detr_large import dataloader

dataloader.train.dataset.names = "objects365_v2_train"
dataloader.test.dataset.names = "objects365_v2_val"
