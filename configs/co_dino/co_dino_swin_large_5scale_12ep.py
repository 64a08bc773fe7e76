"""Co-DINO, Swin-L, five scales, DETR augmentation, 12 epochs (published: 58.9 AP)."""

from ..common.models.swin import swin
from .co_dino_r50_5scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = swin(
    "large",
    drop_path_rate=0.3,
    pretrained="swin_large_patch4_window12_384.ms_in22k",
    out_features=["res2", "res3", "res4", "res5"],
)
model.neck.in_channels = [192, 384, 768, 1536]
train.init_checkpoint = ""
train.output_dir = "output/co_dino_swin_large_5scale_12ep"
