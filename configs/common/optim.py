"""AdamW with the learning rate factors of the released models."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params


def deformable_lr_factor(name: str) -> float:
    """A tenth for the backbone, the sampling offsets and the reference points."""
    slow = ("backbone.", "sampling_offsets", "reference_points")
    return 0.1 if any(part in name for part in slow) else 1.0


def sampling_lr_factor(name: str) -> float:
    """A tenth for the sampling offsets and the reference points; the backbone learns in full."""
    slow = ("sampling_offsets", "reference_points")
    return 0.1 if any(part in name for part in slow) else 1.0


def backbone_lr_factor(name: str) -> float:
    """A tenth for the backbone."""
    return 0.1 if name.startswith("backbone.") else 1.0


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
)
