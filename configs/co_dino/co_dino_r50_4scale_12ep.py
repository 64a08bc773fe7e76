"""Co-DINO, ResNet-50, four scales (strides 8 to 64), DETR augmentation, 12 epochs (K = 2)."""

from .co_dino_r50_5scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.out_features = ["res3", "res4", "res5"]
model.neck.in_channels = [512, 1024, 2048]
model.neck.num_outs = 4
model.aux_heads.rcnn.rpn.strides = model.aux_heads.atss.strides = [8, 16, 32, 64, 128]
model.aux_heads.rcnn.box_head.strides = [8, 16, 32, 64]
model.aux_heads.rcnn.box_head.finest_scale = 112
train.output_dir = "output/co_dino_r50_4scale_12ep"
