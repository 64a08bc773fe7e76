"""Co-DINO on tree crowns, from an ImageNet backbone, small enough for two CPU cores (K = 2)."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from ..common.data.trees import dataloader
from ..common.models.co_dino_r50 import model
from ..common.models.trees import shrink
from ..common.optim import AdamW as optimizer
from ..common.train import train

shrink(model)

optimizer.lr = 1e-3
optimizer.fused = True

train.max_iter = 800
train.log_period = 20
train.eval_period = 200
train.checkpointer.period = 200
train.channels_last = True
train.output_dir = "output/co_dino_trees"

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02),
    warmup_length=80 / train.max_iter,
    warmup_factor=0.02,
)
