"""Co-Deformable-DETR, Swin-T, 12 epochs, K = 2."""

from ..common.models.swin import swin
from .co_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = swin("tiny", drop_path_rate=0.2, pretrained="swin_tiny_patch4_window7_224.ms_in1k")
model.neck.in_channels = [192, 384, 768]
optimizer.weight_decay = 0.05
train.init_checkpoint = ""
train.output_dir = "output/co_deformable_detr_swin_tiny_12ep"
