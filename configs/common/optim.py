"""AdamW with the learning rate factors of the released models."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from co_detr.engine.lr_factors import deformable_lr_factor

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        # params.model is filled in by the trainer
        base_lr="${..lr}",
        weight_decay_norm=None,
        lr_factor_func=deformable_lr_factor,
    ),
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    fused=None,  # True: one kernel for the whole update, on CUDA and the CPU
)
