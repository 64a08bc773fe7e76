"""Deformable-DETR in miniature on the digits dataset: learned queries, no refinement (K = 0)."""

from ..common.models.plain import make_plain
from .co_deformable_detr_digits_k0 import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
model.query_sources.matching.num_queries = 40
train.output_dir = "output/deformable_detr_digits"
