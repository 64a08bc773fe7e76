"""Co-DINO, ResNet-50, LVIS v1, DETR augmentation, 12 epochs."""

from ..common.data.lvis_detr import dataloader
from ..common.models.lvis import use_lvis_classes
from .co_dino_r50_5scale_12ep import lr_multiplier, model, optimizer, train

use_lvis_classes(model)
dataloader.evaluator.max_dets_per_image = model.postprocess.max_detections
train.output_dir = "output/co_dino_r50_5scale_12ep_lvis"
