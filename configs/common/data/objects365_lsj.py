"""Objects365 v2 with large-scale jittering at 1536; without copy-paste, as it has boxes only."""

from .coco_lsj import dataloader

dataloader.train.dataset.names = "objects365_v2_train"
dataloader.train.mapper.augmentations.canvas = 1536
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.recompute_boxes = False
dataloader.train.mix = None

dataloader.test.dataset.names = "objects365_v2_val"
