"""A training job small enough to be killed many times: a dataset, a mapper, a model, an evaluator.

Everything random is used once: Python, numpy and torch in the mapper, torch (dropout) and numpy in
the model.
"""

import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn


def records(count: int = 11) -> list[dict]:
    """Records of images that exist only by number; every third one is high instead of wide."""
    return [
        {"image_id": i, "file_name": f"{i}.png", "width": 3, "height": 4 if i % 3 == 0 else 2}
        for i in range(count)
    ]


class Mapper:
    """Makes four numbers of a record, jittered as an augmentation would."""

    def __call__(self, record: dict) -> dict:
        jitter = np.random.rand(4) + random.random() + torch.rand(1).item()
        example = torch.as_tensor(0.1 * record["image_id"] + 0.1 * jitter, dtype=torch.float32)
        return {"image_id": record["image_id"], "example": example}


class Model(nn.Module):
    """Two linear layers with dropout between; writes down each loss it returns, to the last bit.

    Args:
        log: a file for lines "iteration rank image_ids loss weight", where "weight" is the sum of
            the first layer's before the step.
        kill_at: the process kills itself in the forward pass of that iteration.
        kill_in_save: it kills itself while the checkpoint after that iteration is written.
        nan_at: the iteration whose box loss is not a number.
    """

    def __init__(self, log="", kill_at=None, kill_in_save=None, nan_at=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.log = log
        self.kill_at, self.kill_in_save, self.nan_at = kill_at, kill_in_save, nan_at

    def forward(self, batch):
        if not self.training:
            return [{"answer": self.layers(item["example"]).item()} for item in batch]
        iteration = get_event_storage().iter
        if iteration == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        out = self.layers(torch.stack([item["example"] for item in batch]))
        error = (out - 1 - 0.1 * float(np.random.rand())).squeeze(1)
        losses = {
            "toy/loss_class": error.abs().mean(),
            "toy/loss_box": (error**2).mean() * (float("nan") if iteration == self.nan_at else 1),
            "toy/accuracy": (error.detach().abs() < 0.1).float().mean(),
        }
        if self.log:
            total = losses["toy/loss_class"] + losses["toy/loss_box"]
            numbers = total.item().hex(), self.layers[0].weight.sum().item().hex()
            ids = ",".join(str(item["image_id"]) for item in batch)
            with open(self.log, "a") as file:
                file.write(f"{iteration} {comm.get_rank()} {ids} {' '.join(numbers)}\n")
        return losses

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        if self.kill_in_save is not None and get_event_storage().iter == self.kill_in_save:
            state["bomb"] = _Bomb()
        return state


class _Bomb:
    """Kills the process that pickles it."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Scores(DatasetEvaluator):
    """Gives out given values of AP, one per evaluation, by the number of evaluations so far.

    Args:
        values: AP of the first, second, ... evaluation of a run; the last one is repeated.
        counter: a file that counts the evaluations, also over interruptions.
    """

    def __init__(self, values, counter):
        self.values, self.counter = list(values), Path(counter)

    def evaluate(self):
        number = len(self.counter.read_text()) if self.counter.exists() else 0
        self.counter.write_text("x" * (number + 1))
        # drawing random numbers here must not change the training
        torch.rand(3), np.random.rand(3), random.random()
        return {"bbox": {"AP": self.values[min(number, len(self.values) - 1)]}}
