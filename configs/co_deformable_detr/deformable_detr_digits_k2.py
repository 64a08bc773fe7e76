"""The digits model of Co-Deformable-DETR: Deformable-DETR with Faster R-CNN and ATSS (K = 2)."""

from ..common.models.plain import make_plain
from .co_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
model.query_sources.matching.num_queries = 40
train.output_dir = "output/deformable_detr_digits_k2"
