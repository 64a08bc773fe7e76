"""The digits model with the ATSS head alone (K = 1)."""

from .co_conditional_detr_digits import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
model.query_sources.customized.heads = ["atss"]
train.output_dir = "output/co_conditional_detr_digits_k1"
