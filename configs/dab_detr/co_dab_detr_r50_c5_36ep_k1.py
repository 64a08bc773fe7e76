"""Co-DAB-DETR-C5, ResNet-50, 36 epochs, the ATSS head alone (K = 1; published: 43.1 AP)."""

from .co_dab_detr_r50_c5_36ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
model.query_sources.customized.heads = ["atss"]
train.output_dir = "output/co_dab_detr_r50_c5_36ep_k1"
