"""Schedules are asked for the end of training, too."""

import pytest
import torch
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    StepParamScheduler,
)
from omegaconf import DictConfig

from co_detr.engine.schedule import build_schedule


def schedule(multiplier):
    flags = {"allow_objects": True}
    return build_schedule(DictConfig({"lr_multiplier": multiplier}, flags=flags))


@pytest.mark.parametrize(
    "multiplier, rates",
    [
        (ConstantParamScheduler(0.5), [0.5, 0.5, 0.5, 0.5]),
        (StepParamScheduler(4, [1.0, 0.1]), [1, 1, 0.1, 0.1]),
        (MultiStepParamScheduler([1.0, 0.1], milestones=[3], num_updates=4), [1, 1, 1, 0.1]),
        (LinearParamScheduler(1.0, 0.0), [1, 0.75, 0.5, 0.25]),
        (CosineParamScheduler(1.0, 0.0), [1, 0.85355, 0.5, 0.14645]),
        (WarmupParamScheduler(ConstantParamScheduler(1.0), 0.0, 0.5), [0, 0.5, 1, 1]),
    ],
)
def test_every_schedule_gets_to_its_end(multiplier, rates):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = LRMultiplier(optimizer, schedule(multiplier), max_iter=4)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(rates, abs=1e-5)


def test_what_is_no_schedule_is_refused():
    with pytest.raises(ValueError, match="lr_multiplier is of the type float"):
        schedule(0.1)
