"""Starting one process per device."""

import datetime
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = datetime.timedelta(minutes=30)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: datetime.timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call a function in as many processes as asked for, joined in one process group.

    A single process calls the function right here. Several use NCCL where CUDA is available and
    gloo elsewhere.

    Args:
        main_func: called as `main_func(*args)`.
        num_gpus_per_machine: processes on this machine.
        num_machines: machines in all.
        machine_rank: which of them this is, from 0.
        dist_url: where the processes meet, such as "tcp://127.0.0.1:8686"; "auto" finds a free
            port, on a single machine only.
        args: for `main_func`.
        timeout: of collective operations.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError(
                "dist_url='auto' cannot be shared between machines; give an address, such as "
                "tcp://<host of machine 0>:<port>"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if dist_url is None:
        raise ValueError(f"{world_size} processes need a dist_url to meet at")
    if num_machines > 1 and dist_url.startswith("file://"):
        logger.warning("file:// is not reliable between machines; prefer tcp://")
    mp.start_processes(
        _worker,
        args=(
            main_func,
            world_size,
            num_gpus_per_machine,
            machine_rank,
            dist_url,
            args,
            timeout,
        ),
        nprocs=num_gpus_per_machine,
        daemon=False,
        start_method="spawn",
    )


def _worker(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: datetime.timedelta,
) -> None:
    # it comes when the launcher is gone; ignored, as it is in the background of a shell, it would
    # leave this process behind
    signal.signal(signal.SIGINT, signal.default_int_handler)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        assert num_gpus_per_machine <= torch.cuda.device_count(), (
            f"{num_gpus_per_machine} processes were asked for, this machine has "
            f"{torch.cuda.device_count()} GPUs"
        )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            backend="nccl" if on_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_gpus_per_machine + local_rank,
            timeout=timeout,
        )
    except Exception:
        logger.error("Could not join the process group at %s", dist_url)
        raise
    comm.create_local_process_group(num_gpus_per_machine)
    # nobody starts before everybody has arrived
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()
