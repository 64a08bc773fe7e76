"""Co-DINO, ResNet-50, large-scale jittering and copy-paste, 12 epochs (published: 52.1 AP)."""

from ..common.data.coco_lsj import dataloader
from .co_dino_r50_5scale_12ep import lr_multiplier, model, optimizer, train

model.canvas = "${dataloader.train.mapper.augmentations.canvas}"
model.mask_padding = False  # padding is image for such models
train.output_dir = "output/co_dino_r50_5scale_lsj_12ep"
