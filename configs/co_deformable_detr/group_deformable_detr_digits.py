"""Deformable-DETR with 3 groups of queries (Group DETR) in miniature on the digits dataset."""

from ..common.models.hybrid import make_grouped
from .deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

make_grouped(model)
train.output_dir = "output/group_deformable_detr_digits"
