"""Starting the processes of a job, or joining the job that this process was started for."""

import argparse
import contextlib
import datetime
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as start_processes
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from co_detr.arguments import parse_arguments

from . import fsdp, signals
from .environment import Place, place_in_job
from .train import main

TIMEOUT = datetime.timedelta(minutes=30)  # of collectives, as in detectron2


def run(arguments: list[str] | None = None) -> None:
    """Train or evaluate as a command line says.

    Args:
        arguments: the words of the command line; None for those of this process.
    """
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="with --eval-only: look at pictures in several sizes and, if trained so, mirrored",
    )
    launch(main, parse_arguments(parser, arguments))


def launch(body: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Call a function in every process of a job.

    Under `torchrun` and Slurm's `srun` this process is one of them. Elsewhere they are started
    here, one for each of `--num-gpus`; a single one is this process itself.

    Args:
        body: called with `args`.
        args: of detectron2's parser, with `dist_url="auto"` for a free port on this machine.

    Raises:
        Interrupted: by a signal, which all processes obeyed.
        ValueError: the job is not what `--num-gpus` or `--num-machines` ask for.
    """
    if place := place_in_job(os.environ, args.num_gpus, args.num_machines):
        _join(place, body, args)
    elif args.num_gpus * args.num_machines <= 1:
        body(args)
    else:
        _start(body, args)


def _join(place: Place, body: Callable[[argparse.Namespace], Any], args: Any) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(_device(place.local_rank, torch.cuda.device_count()))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=place.url,
        rank=place.rank,
        world_size=place.world_size,
        timeout=TIMEOUT,
    )
    comm.create_local_process_group(place.local_size)
    comm.synchronize()
    interrupted = None
    try:
        body(args)
    except signals.Interrupted as end:  # all processes obeyed
        interrupted = end.with_traceback(None)
    _leave()
    if interrupted:
        raise interrupted


def _leave() -> None:
    """Leave the job and end the threads of its process groups, while Python still runs.

    gloo's threads free the tensors of the last collective when they get to it. If Python is being
    finalized by then they cannot, and the process aborts. A group's threads are joined when the
    last reference to it goes: `destroy_process_group` drops torch's, not those of detectron2's
    `comm`, of meshes and of models in reference cycles.
    """
    dist.destroy_process_group()
    for name, value in list(vars(comm).items()):
        if isinstance(value, dist.ProcessGroup):
            setattr(comm, name, None)
        elif hasattr(value, "cache_clear"):
            value.cache_clear()
    fsdp.release_groups()
    gc.collect()


def _device(local_rank: int, visible: int) -> int:
    """The GPU of a process, by its number among the visible ones."""
    if visible == 1:
        return 0  # a scheduler shows each process its own
    if local_rank >= visible:
        raise ValueError(
            f"process {local_rank} of this machine (from 0) has no GPU: {visible} are visible. "
            "Start as many processes as there are GPUs"
        )
    return local_rank


def _start(body: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://<address of machine 0>:"
            "<free port there>, the same on every machine"
        )
    with _forwarding() as forwarded:
        try:
            start_processes(
                body,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        except ProcessExitedException as error:
            # it has said why itself
            signum = forwarded.signum or error.exit_code - 128
            if signum not in signals.CAUGHT:
                raise
            raise SystemExit(128 + signum) from None


class _Forwarded:
    """The first signal that was passed on to the children, 0 for none."""

    signum = 0


@contextlib.contextmanager
def _forwarding() -> Iterator[_Forwarded]:
    """Inside, signals that ask to end are passed on to the child processes.

    They end, and this process with them. A second wish kills them.
    """
    forwarded = _Forwarded()
    if threading.current_thread() is not threading.main_thread():
        yield forwarded
        return
    first = 0.0

    def forward(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if not forwarded.signum:
            forwarded.signum, first = signum, time.monotonic()
        elif time.monotonic() - first > signals.SAME_WISH:
            signum = signal.SIGKILL
        else:
            return
        for child in multiprocessing.active_children():
            assert child.pid is not None  # it has started
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signum)

    before = {signum: signal.getsignal(signum) for signum in signals.CAUGHT}
    for signum, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(signum, forward)
    try:
        yield forwarded
    finally:
        for signum, handler in before.items():
            if handler is not None:
                signal.signal(signum, handler)
