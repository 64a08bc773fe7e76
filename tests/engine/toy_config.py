"""The config of the toy job; it runs from the command line like any other."""

import os
import sys

import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import OmegaConf

from co_detr.data import build_train_loader

from ...configs.common.train import train

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import toy  # noqa: E402

model = L(toy.Recorded)(model=L(toy.Net)(), log="${train.output_dir}/losses.txt")

dataloader = OmegaConf.create()
dataloader.train = L(build_train_loader)(
    dataset=L(toy.records)(),
    mapper=L(toy.Mapper)(),
    total_batch_size=2,
    num_workers=0,
    aspect_ratio_grouping=True,
    seed="${train.seed}",
    start_iter=0,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(toy.records)(count=3), mapper=L(toy.Mapper)(), num_workers=0
)
dataloader.evaluator = L(toy.Scores)(
    values=[10.0, 30.0, 20.0], counter="${train.output_dir}/evaluations.txt"
)

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}"), lr=0.01, betas=(0.8, 0.9)
)
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)

train.update(
    max_iter=12,
    seed=3,
    device="cpu",
    log_period=2,
    eval_period=4,
    checkpointer=dict(period=3, max_to_keep=2),
)
