"""Co-DINO, ResNet-50, 9 encoder layers, large-scale jittering, 36 epochs."""

from .co_dino_r50_5scale_lsj_36ep import dataloader, lr_multiplier, model, optimizer, train

model.encoder.num_layers = 9
train.output_dir = "output/co_dino_r50_5scale_lsj_9enc_36ep"
