"""Which job a process was started for, by the environment that `torchrun` or `srun` gave it."""

import itertools
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# only `srun` sets these; SLURM_PROCID and SLURM_NTASKS are also there in an `sbatch` script, which
# is a single process
_SRUN = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS", "SLURM_SRUN_COMM_PORT")
_FIRST_SPECIAL_STEP = 2**32 - 16  # numbers from here on are no steps, but scripts and shells


class Place(NamedTuple):
    """The place of a process in a job of several.

    Ranks are contiguous on a machine, which has the same number of them as every other.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str  # where the processes meet, for `init_process_group`


def place_in_job(env: Mapping[str, str], num_gpus: int = 1, num_machines: int = 1) -> Place | None:
    """The place that `torchrun` or `srun` has given this process.

    Args:
        env: the environment variables.
        num_gpus, num_machines: as asked for on the command line; 1 is the default there.

    Returns:
        None for a process that is a job of its own.

    Raises:
        ValueError: the variables are incomplete or contradict each other, or the command line asks
            for another job.
    """
    place, starter = _torchrun_place(env), "torchrun"
    if place is None:
        place, starter = _slurm_place(env, os.isatty(0)), "srun"
    if place is None or place.world_size == 1:
        return None
    machines = place.world_size // place.local_size
    if num_gpus not in (1, place.local_size) or num_machines not in (1, machines):
        raise ValueError(
            f"--num-gpus {num_gpus} --num-machines {num_machines}, but {starter} started "
            f"{place.local_size} processes on each of {machines} machines: leave the processes to "
            f"{starter} and drop these options, or start the script without {starter}"
        )
    return place


def _torchrun_place(env: Mapping[str, str]) -> Place | None:
    if "RANK" not in env or "LOCAL_RANK" not in env:
        return None
    if missing := [name for name in _TORCHRUN if name not in env]:
        raise ValueError(
            f"the environment has RANK={env['RANK']}, as torchrun sets it, but not "
            f"{', '.join(missing)}: start the script with torchrun, or unset RANK"
        )
    world_size, rank = _number(env, "WORLD_SIZE"), _number(env, "RANK")
    local_rank = _number(env, "LOCAL_RANK")
    # without LOCAL_WORLD_SIZE: one machine, if ranks and local ranks are the same
    local_size = _number(env, "LOCAL_WORLD_SIZE", world_size if rank == local_rank else None)
    return Place(rank, world_size, local_rank, local_size, "env://")


def _slurm_place(env: Mapping[str, str], in_a_terminal: bool) -> Place | None:
    if "SLURM_PROCID" not in env or not any(name in env for name in _SRUN):
        return None
    if _number(env, "SLURM_STEP_ID", 0) >= _FIRST_SPECIAL_STEP:
        return None
    if "SLURM_PTY_PORT" in env and in_a_terminal:
        return None  # not in a step, but in a shell on a node that was started by one
    world_size = _number(env, "SLURM_STEP_NUM_TASKS", _number(env, "SLURM_NTASKS", 1))
    if world_size == 1:
        return None
    hosts = expand_hosts(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "")
    local_size = _tasks_per_node(env, world_size, len(hosts))
    local_rank = _number(env, "SLURM_LOCALID")
    # Slurm may deal out the tasks like cards, one to each node in turn: number them node by node
    node = _number(env, "SLURM_NODEID", _number(env, "SLURM_PROCID") // local_size)
    host = hosts[0] if world_size > local_size else "127.0.0.1"
    return Place(
        node * local_size + local_rank,
        world_size,
        local_rank,
        local_size,
        f"tcp://{env.get('MASTER_ADDR', host)}:{_slurm_port(env)}",
    )


def _tasks_per_node(env: Mapping[str, str], world_size: int, nodes: int) -> int:
    """Slurm's list, such as "4(x2)" for two nodes of four tasks, as one number."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        counts = {int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", env.get(name, ""))}
        if len(counts) > 1:
            raise ValueError(
                f"{name}={env[name]}, but all nodes must have the same number of tasks: ask for it "
                "with srun --ntasks-per-node"
            )
        if counts:
            return counts.pop()
    return world_size // max(nodes, 1)


def _slurm_port(env: Mapping[str, str]) -> int:
    """A port that other jobs and steps are unlikely to have, the same for all of this step."""
    job, step = _number(env, "SLURM_JOB_ID", 0), _number(env, "SLURM_STEP_ID", 0)
    # below the range that systems choose ports of outgoing connections from
    return _number(env, "MASTER_PORT", 12000 + (job + 1009 * step) % 20000)


def expand_hosts(nodelist: str) -> list[str]:
    """The hosts of Slurm's notation: node01, node02, node7 and gpu of "node[01-02,7],gpu"."""
    hosts = []
    for word in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        # text and ranges in turn
        parts = re.split(r"\[([^\]]*)\]", word)
        choices = [_range(part) if i % 2 else [part] for i, part in enumerate(parts)]
        hosts += ["".join(choice) for choice in itertools.product(*choices)]
    return hosts


def _range(text: str) -> list[str]:
    """The numbers of "01-03,7", with their zeros."""
    numbers = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        numbers += [f"{i:0{len(first)}}" for i in range(int(first), int(last or first) + 1)]
    return numbers


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if name not in env and default is not None:
        return default
    try:
        return int(env[name])
    except (KeyError, ValueError):
        raise ValueError(
            f"the environment variable {name} must be a number, but is {env.get(name, 'missing')!r}"
        ) from None
