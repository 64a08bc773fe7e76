"""Co-DINO, Swin-L, large-scale jittering at 1280, 12 epochs (published: 59.3 AP)."""

from ..common.data.coco_lsj import dataloader
from .co_dino_swin_large_5scale_12ep import lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations.canvas = 1280
model.canvas = "${dataloader.train.mapper.augmentations.canvas}"
model.mask_padding = False  # padding is image for such models
train.output_dir = "output/co_dino_swin_large_5scale_lsj_12ep"
