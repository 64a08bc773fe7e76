"""The digits dataset (datasets/prepare_digits.py) as it is: 128x128 images, no augmentation."""

from .coco_detr import dataloader

dataloader.train.dataset.names = "digits_train"
dataloader.train.mapper.augmentations = []
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 2

dataloader.test.dataset.names = "digits_val"
dataloader.test.mapper.augmentations = []
dataloader.test.num_workers = 2
