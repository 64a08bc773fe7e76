"""Co-DINO, ResNet-50, four scales, 12 epochs, the ATSS head alone (K = 1)."""

from .co_dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_dino_r50_4scale_12ep_k1"
