"""Co-DINO, Swin-L, five scales, 12 epochs, the ATSS head alone (K = 1; published: 59.3 AP)."""

from .co_dino_swin_large_5scale_12ep import dataloader, lr_multiplier, model, optimizer, train

del model.aux_heads.rcnn
train.output_dir = "output/co_dino_swin_large_5scale_12ep_k1"
