"""Deformable-DETR with 3 groups of queries (Group DETR) in miniature on the digits dataset."""

from ..common.models.hybrid import make_grouped
from ..common.models.plain import make_plain
from .co_deformable_detr_digits_k0 import dataloader, lr_multiplier, model, optimizer, train

make_plain(model)
model.query_sources.matching.num_queries = 40
make_grouped(model)
train.output_dir = "output/group_deformable_detr_digits"
