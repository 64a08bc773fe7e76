"""Co-Deformable-DETR, Swin-L, 12 epochs, K = 2."""

from ..common.models.swin import swin
from .co_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = swin(
    "large", drop_path_rate=0.3, pretrained="swin_large_patch4_window12_384.ms_in22k"
)
model.neck.in_channels = [384, 768, 1536]
optimizer.weight_decay = 0.05
train.init_checkpoint = ""
train.output_dir = "output/co_deformable_detr_swin_large_12ep"
