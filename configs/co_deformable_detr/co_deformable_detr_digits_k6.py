"""The digits model with all six auxiliary heads (K = 6)."""

from co_detr.modeling.aux_heads.fcos import FCOSHead
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.paa import PAAHead
from co_detr.modeling.aux_heads.retinanet import RetinaNetHead

from ..common.models.heads import dense_head
from .co_deformable_detr_digits import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.paa = dense_head(model, PAAHead)
model.aux_heads.retinanet = dense_head(model, RetinaNetHead, anchor_scale=2.0)
model.aux_heads.fcos = dense_head(model, FCOSHead, max_sizes=[32, 64, 128])
model.aux_heads.gfl = dense_head(model, GFLHead)
train.output_dir = "output/co_deformable_detr_digits_k6"
