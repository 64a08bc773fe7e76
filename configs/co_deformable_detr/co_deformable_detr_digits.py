"""Co-Deformable-DETR in miniature on the digits dataset: minutes on two CPU cores (K = 2)."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from ..common.data.digits import dataloader
from ..common.models.co_deformable_detr_r50 import model
from ..common.models.resnet18_narrow import backbone
from ..common.optim import AdamW as optimizer
from ..common.optim import sampling_lr_factor
from ..common.train import train

model.num_classes = 10
model.backbone = backbone
model.neck.in_channels = [48, 96, 192]
model.neck.out_channels = 64
model.neck.num_outs = 3
model.encoder.num_layers = model.decoder.num_layers = 2
model.encoder.num_heads = 4
model.encoder.ffn_dim = 128
model.query_sources.matching.num_queries = 40
model.query_sources.customized.max_queries = 60
model.postprocess.max_detections = 40

rcnn, atss = model.aux_heads.rcnn, model.aux_heads.atss
rcnn.loss_weight = atss.loss_weight = 4.0  # decoder layers (2) x lambda_2 (2)
rcnn.rpn.strides = atss.strides = [8, 16, 32, 64]
rcnn.rpn.anchor_scale = 2.0
rcnn.rpn.pre_nms_topk = (150, 150)
rcnn.rpn.post_nms_topk = (100, 100)
rcnn.rpn.samples_per_image = 128
rcnn.box_head.strides = [8, 16, 32]
rcnn.box_head.finest_scale = 28
rcnn.box_head.fc_dim = 128
rcnn.samples_per_image = 32
rcnn.positive_fraction = 0.5
rcnn.detections_per_image = atss.detections_per_image = 40
atss.anchor_scale = 4.0

optimizer.lr = 2e-3
optimizer.params.lr_factor_func = sampling_lr_factor

train.max_iter = 600
train.log_period = 20
train.eval_period = 150
train.checkpointer.period = 150
train.output_dir = "output/co_deformable_detr_digits"

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02),
    warmup_length=50 / train.max_iter,
    warmup_factor=0.02,
)
