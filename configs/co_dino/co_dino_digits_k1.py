"""The digits model of Co-DINO with the ATSS head alone (K = 1)."""

from .co_dino_digits import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_dino_digits_k1"
