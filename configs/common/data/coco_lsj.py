"""COCO 2017 with large-scale jittering on a canvas of 1024x1024 and copy-paste.

Models with `mask_padding=False`. Another canvas is set in one place, beside the model's:
`dataloader.train.mapper.augmentations.canvas` and `model.canvas`.
"""

from detectron2.config import LazyCall as L

from co_detr.data import CopyPaste, DetectionMapper, ResizeShortestEdge, large_scale_jitter

from .coco_detr import dataloader

dataloader.train.mapper = L(DetectionMapper)(
    is_train=True,
    augmentations=L(large_scale_jitter)(canvas=1024, scale=[0.1, 2.0]),
    image_format="RGB",
    use_instance_mask=True,  # for copy-paste, which drops them unless keep_masks=True
    instance_mask_format="bitmask",
    recompute_boxes=True,
)
dataloader.train.mix = L(CopyPaste)(max_objects=100, keep_masks=False)
dataloader.train.aspect_ratio_grouping = False  # all have the size of the canvas

# the model pads to its canvas
CANVAS = "${dataloader.train.mapper.augmentations.canvas}"
dataloader.test.mapper.augmentations = [
    L(ResizeShortestEdge)(short_edge_length=CANVAS, max_size=CANVAS)
]
