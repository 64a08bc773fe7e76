"""Tree crowns on aerial photos (datasets/prepare_trees.py), a little enlarged: half of them are
narrower than 40 pixels, and the finest cells of the models have 8."""

from detectron2.config import LazyCall as L

from co_detr.data.aerial import aerial_augmentation

from .coco_detr import dataloader

dataloader.train.dataset.names = "trees_train"
dataloader.train.mapper.augmentations = L(aerial_augmentation)(
    crop_sides=[320, 384, 448], size=448, color=0.3
)
dataloader.train.mapper.min_visible = 0.4  # as in the tiles
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 1

dataloader.test.dataset.names = "trees_val"
dataloader.test.mapper.augmentations[0].update(short_edge_length=448, max_size=448)
dataloader.test.num_workers = 1
