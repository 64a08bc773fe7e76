"""Communication between the processes of a run; every function also works in a single process."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_local_group: dist.ProcessGroup | None = None


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _initialized() else 0


def is_main_process() -> bool:
    """Tell whether this process has rank 0."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the processes of each machine; every process calls this once, after initialization.

    Args:
        num_workers_per_machine: processes on each machine; ranks are contiguous within a machine.
    """
    global _local_group
    assert get_world_size() % num_workers_per_machine == 0, (
        f"{get_world_size()} processes cannot be {num_workers_per_machine} on each machine; "
        "start the same number of processes everywhere"
    )
    machine = get_rank() // num_workers_per_machine
    for i in range(get_world_size() // num_workers_per_machine):
        ranks = range(i * num_workers_per_machine, (i + 1) * num_workers_per_machine)
        group = dist.new_group(list(ranks))  # collective: all processes create all groups
        if i == machine:
            _local_group = group


def get_local_rank() -> int:
    """Return the number of this process among those of its machine."""
    if not _initialized():
        return 0
    assert _local_group is not None, (
        "the processes of this machine are not grouped; start the run with "
        "detectron2.engine.launch or call comm.create_local_process_group first"
    )
    return dist.get_rank(_local_group)


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # naming the device keeps NCCL from guessing it by rank, which is wrong on later machines
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache(maxsize=1)
def _gloo_group_beside(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def _object_group() -> dist.ProcessGroup:
    """Return a group of all processes that sends pickled objects without passing through a GPU."""
    world = dist.group.WORLD
    return _gloo_group_beside(world) if dist.get_backend() == dist.Backend.NCCL else world


def all_gather(data: Any) -> list[Any]:
    """Return the picklable `data` of all processes, by rank, on every process."""
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size()
    dist.all_gather_object(gathered, data, group=_object_group())
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """Return the picklable `data` of all processes, by rank, on process `dst`; elsewhere []."""
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=_object_group())
    return gathered or []


def shared_random_seed() -> int:
    """Draw a seed in [0, 2**31) that is the same on every process (the draw of rank 0)."""
    return all_gather(int(np.random.randint(2**31)))[0]


@torch.no_grad()
def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict:
    """Average or sum scalar tensors over the processes; only rank 0 gets meaningful values.

    Args:
        input_dict: scalar tensors; all processes have the same keys.
        average: divide the sums by the number of processes.

    Returns:
        dict: the reduced tensors under the same keys.
    """
    if get_world_size() < 2:
        return input_dict
    names = sorted(input_dict)  # the same order everywhere, so that one collective is enough
    values = torch.stack([input_dict[name] for name in names])
    dist.reduce(values, dst=0)
    if average and is_main_process():
        values /= get_world_size()
    return dict(zip(names, values))
