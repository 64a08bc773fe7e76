"""How long to train on some data, and on how many pictures at a time, on this machine."""

import math
from dataclasses import dataclass

GIB_PER_SHARE = 24  # memory of a GPU that a published recipe's share of the batch is meant for
PUBLISHED_GPUS = 8  # that the published batches are spread over
ON_CPU = 2  # pictures at a time there, of full-size models
EVALUATIONS = 12  # of a training, at most
MIN_EPOCHS, MIN_ITERATIONS, MAX_EPOCHS = 12, 1500, 100  # where nothing is asked for


@dataclass(frozen=True)
class Machine:
    """What trains.

    Args:
        num_gpus: 0 for the CPU.
        gib: memory of the smallest GPU.
    """

    num_gpus: int
    gib: float = 0.0

    def __str__(self) -> str:
        if not self.num_gpus:
            return "the CPU"
        return f"{self.num_gpus} GPU{'s' * (self.num_gpus > 1)} of {self.gib:.0f} GiB"


def this_machine() -> Machine:
    import torch

    count = torch.cuda.device_count()
    sizes = [torch.cuda.get_device_properties(i).total_memory / 2**30 for i in range(count)]
    return Machine(count, min(sizes, default=0.0))


@dataclass(frozen=True)
class Plan:
    """The length of a training.

    Args:
        batch_size: pictures per iteration, over all GPUs.
        reference_batch_size: what the learning rate of the recipe is meant for.
        epochs: passes over the pictures.
        iterations_per_epoch: batches of a pass.
        epochs_per_evaluation: passes between evaluations, and between checkpoints.
    """

    batch_size: int
    reference_batch_size: int
    epochs: int
    iterations_per_epoch: int
    epochs_per_evaluation: int


def plan(
    pictures: int, recipe_batch: int, machine: Machine, small: bool, epochs: int | None
) -> Plan:
    """The plan for a data set.

    A GPU gets the published share, an eighth of the recipe's batch, for every 24 GiB of memory; the
    whole is not more than the recipe's batch, nor than there are pictures.

    Args:
        pictures: to train on.
        recipe_batch: pictures per iteration of the recipe.
        machine: what trains.
        small: whether the model is one for the CPU, which keeps its batch anywhere.
        epochs: passes that were asked for; None for 12, and more where that were fewer than 1500
            iterations, up to 100.
    """
    share = max(recipe_batch // PUBLISHED_GPUS, 1)
    if small:
        batch = recipe_batch
    elif machine.num_gpus:
        per_gpu = share * max(int(machine.gib // GIB_PER_SHARE), 1)
        if machine.gib < GIB_PER_SHARE * 0.8:
            per_gpu = 1
        batch = max(min(per_gpu * machine.num_gpus, recipe_batch), machine.num_gpus)
    else:
        batch = min(ON_CPU, recipe_batch)
    batch = max(min(batch, pictures), machine.num_gpus, 1)
    per_epoch = math.ceil(pictures / batch)
    if epochs is None:
        epochs = min(max(MIN_EPOCHS, math.ceil(MIN_ITERATIONS / per_epoch)), MAX_EPOCHS)
    return Plan(batch, recipe_batch, epochs, per_epoch, math.ceil(epochs / EVALUATIONS))
