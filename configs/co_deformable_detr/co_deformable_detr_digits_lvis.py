"""The digits model on digits in LVIS format: federated class loss, repeat factors, LVIS's AP."""

from detectron2.config import LazyCall as L

from co_detr.modeling.fed_loss import FederatedClasses

from ..common.data.digits_lvis import dataloader
from .co_deformable_detr_digits import lr_multiplier, model, optimizer, train

model.criterion.federated = L(FederatedClasses)(
    num_classes="${...num_classes}",
    num_sampled=5,
    power=0.5,
    dataset="${dataloader.train.dataset.names}",
)

train.output_dir = "output/co_deformable_detr_digits_lvis"
