"""Deformable-DETR with 3 groups of queries, ResNet-50, 36 epochs (published: 44.6 AP)."""

from ..common.models.hybrid import make_grouped
from ..common.models.plain import make_plain
from .co_deformable_detr_r50_36ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads, model.pyramid, model.query_sources.customized
make_plain(model)
make_grouped(model)
train.output_dir = "output/group_deformable_detr_r50_36ep"
