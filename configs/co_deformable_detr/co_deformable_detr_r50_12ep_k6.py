"""Co-Deformable-DETR, ResNet-50, 12 epochs, six auxiliary heads (K = 6; published: 48.9 AP)."""

from co_detr.modeling.aux_heads.fcos import FCOSHead
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.paa import PAAHead
from co_detr.modeling.aux_heads.retinanet import RetinaNetHead

from ..common.models.heads import dense_head
from .co_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.aux_heads.paa = dense_head(model, PAAHead)
model.aux_heads.retinanet = dense_head(model, RetinaNetHead, anchor_scale=4.0)
model.aux_heads.fcos = dense_head(model, FCOSHead)
model.aux_heads.gfl = dense_head(model, GFLHead)
train.output_dir = "output/co_deformable_detr_r50_12ep_k6"
