"""A training job small enough to be killed many times: datasets, mappers, a model, an evaluator.

Everything random is used once: Python, numpy and torch in the mapper, torch (dropout) and numpy in
the model.
"""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from co_detr.engine import signals
from co_detr.engine.fsdp import whole


def records(count: int = 11) -> list[dict]:
    """Records of images that exist only by number; every third one is high instead of wide."""
    return [
        {"image_id": i, "file_name": f"{i}.png", "width": 3, "height": 4 if i % 3 == 0 else 2}
        for i in range(count)
    ]


def picture_records(count: int = 9) -> list[dict]:
    """Records of made-up pictures; every third one shows nothing."""
    return [
        {"image_id": i, "file_name": f"{i}.png", "width": 64, "height": 64, "objects": i % 3}
        for i in range(count)
    ]


class PictureMapper:
    """Paints bright rectangles of three classes on noise, in a place of its own at each call."""

    def __call__(self, record: dict) -> dict:
        picture = np.random.randint(0, 60, (3, 64, 64), dtype=np.uint8)
        boxes, classes = [], []
        for _ in range(record["objects"]):
            width, height = np.random.randint(12, 40, 2)
            x, y = np.random.randint(0, 64 - width), np.random.randint(0, 64 - height)
            label = random.randrange(3)
            picture[label, y : y + height, x : x + width] = 255
            boxes.append([x, y, x + width, y + height])
            classes.append(label)
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        size = {"height": 64, "width": 64}
        image = torch.from_numpy(picture)
        return {"image_id": record["image_id"], "image": image, "instances": instances, **size}


class Mapper:
    """Makes four numbers of a record, jittered as an augmentation would."""

    def __call__(self, record: dict) -> dict:
        jitter = np.random.rand(4) + random.random() + torch.rand(1).item()
        example = torch.as_tensor(0.1 * record["image_id"] + 0.1 * jitter, dtype=torch.float32)
        return {"image_id": record["image_id"], "example": example}


class Net(nn.Module):
    """Two linear layers with dropout between."""

    def __init__(self, width=8):
        super().__init__()
        hidden = nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.3)
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, batch):
        if not self.training:
            return [{"answer": self.layers(item["example"]).item()} for item in batch]
        out = self.layers(torch.stack([item["example"] for item in batch]))
        error = (out - 1 - 0.1 * float(np.random.rand())).squeeze(1)
        return {
            "toy/loss_class": error.abs().mean(),
            "toy/loss_box": (error**2).mean(),
            "toy/accuracy": (error.detach().abs() < 0.1).float().mean(),
        }


class Recorded(nn.Module):
    """A model that writes down each loss it returns, to the last bit, and fails when told to.

    Args:
        model: any model.
        log: a file for lines "iteration rank image_ids boxes loss weight": the number of boxes in
            the batch, the sum of the losses, and the sum of all parameters before the step.
        kill_at: the process kills itself in the forward pass of that iteration.
        kill_in_save: it kills itself while the checkpoint after that iteration is written.
        nan_at: the iteration whose last loss is not a number.
        signal_at: the iteration in whose forward pass a signal is sent; "evaluation" for the first
            batch of an evaluation.
        signum: of the signal.
        signal_from: the rank that sends it.
        signal_to: "self"; "group" for all processes of the group; "launcher" for the parent, then
            the forward pass goes on when something has come back. All ranks note their process ids
            beside the log.
    """

    def __init__(
        self,
        model,
        log="",
        kill_at=None,
        kill_in_save=None,
        nan_at=None,
        signal_at=None,
        signum=signal.SIGTERM,
        signal_from=0,
        signal_to="self",
    ):
        super().__init__()
        self.model = model
        self.log = log
        self.kill_at, self.kill_in_save, self.nan_at = kill_at, kill_in_save, nan_at
        self.signal_at, self.signum = signal_at, signum
        self.signal_from, self.signal_to = signal_from, signal_to

    def _send_signal(self):
        if self.signal_to == "launcher":
            with open(Path(self.log).with_name("pids.txt"), "a") as file:
                file.write(f"{os.getpid()}\n")
            comm.synchronize()
        if comm.get_rank() != self.signal_from:
            return
        if self.signal_to == "group":
            os.killpg(0, self.signum)
        elif self.signal_to == "self":
            os.kill(os.getpid(), self.signum)
        else:
            os.kill(os.getppid(), self.signum)
            while not signals.received():
                time.sleep(0.01)

    def forward(self, batch):
        if not self.training:
            if self.signal_at == "evaluation":
                self._send_signal()
            return self.model(batch)
        iteration = get_event_storage().iter
        if iteration == self.signal_at:
            self._send_signal()
        if iteration == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        outputs = self.model(batch)
        losses = {name: value for name, value in outputs.items() if "loss" in name}
        if iteration == self.nan_at:
            name = list(losses)[-1]
            outputs[name] = outputs[name] * float("nan")
        ids = ",".join(str(item["image_id"]) for item in batch)
        boxes = sum(len(item.get("instances", ())) for item in batch)
        weight = sum(whole(p.detach()).double().sum() for p in self.parameters())
        numbers = sum(losses.values()).item().hex(), weight.item().hex()
        with open(self.log, "a") as file:
            file.write(f"{iteration} {comm.get_rank()} {ids} {boxes} {' '.join(numbers)}\n")
        return outputs

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
        # drawing random numbers here must not change the training
        torch.rand(3), np.random.rand(3), random.random()
        if not comm.is_main_process():
            return None
        number = len(self.counter.read_text()) if self.counter.exists() else 0
        self.counter.write_text("x" * (number + 1))
        return {"bbox": {"AP": self.values[min(number, len(self.values) - 1)]}}
