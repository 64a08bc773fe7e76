"""Co-DINO, ViT-L, COCO, with masks of its detections, 12 epochs of batch 64."""

from ..common.data.masks import use_mask_scores, use_masks
from ..common.models.instance_mask import instance_mask as _instance_mask
from .co_dino_vit_large_5scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.instance_mask = _instance_mask
use_masks(dataloader)
use_mask_scores(dataloader)
train.output_dir = "output/co_dino_vit_large_5scale_12ep_instance"
