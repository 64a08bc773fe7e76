"""Co-DINO with ViT-L of EVA-02 and a simple feature pyramid."""

from detectron2.config import LazyCall as L

from co_detr.modeling.backbone.eva import EVA02_LARGE, EvaViT
from co_detr.modeling.neck import SimpleFeaturePyramid

from .co_dino_r50 import model

model.backbone = L(EvaViT)(
    **EVA02_LARGE,
    window_size=24,
    global_blocks=[3, 7, 11, 15, 19, 23],
    drop_path_rate=0.4,
    activation_checkpointing=True,
)
model.neck = L(SimpleFeaturePyramid)(
    in_channels="${..backbone.embed_dim}", out_channels=256, min_level=2, max_level=6
)
num_levels = 5
model.encoder.num_levels = model.decoder.num_levels = num_levels
