"""The miniature of Co-Deformable-DETR (two auxiliary heads) on made-up pictures."""

import os
import sys

from detectron2.config import LazyCall as L

from ...configs.co_deformable_detr.co_deformable_detr_digits import model as detector
from ...configs.co_deformable_detr.co_deformable_detr_digits import optimizer
from .toy_config import dataloader, lr_multiplier, train  # noqa: F401

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import toy  # noqa: E402

detector.num_classes = 3
model = L(toy.Recorded)(model=detector, log="${train.output_dir}/losses.txt")

dataloader.train.dataset = L(toy.picture_records)()
dataloader.train.mapper = L(toy.PictureMapper)()
dataloader.test.dataset = L(toy.picture_records)(count=2)
dataloader.test.mapper = L(toy.PictureMapper)()
optimizer.lr = 1e-3
train.max_iter = 6
train.eval_period = 2
train.checkpointer.period = 2
