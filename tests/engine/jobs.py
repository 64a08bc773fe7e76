"""Running jobs, and what they leave behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
import torch.multiprocessing as mp
from detectron2.engine import default_argument_parser

from co_detr.engine import main
from co_detr.engine.launch import launch

HERE = Path(__file__).parent
TOOL = HERE.parents[1] / "tools" / "lazyconfig_train_net.py"
TOY = str(HERE / "toy_config.py")
CO_DETR = str(HERE / "co_detr_config.py")


def arguments(output_dir, *overrides, config=TOY, resume=False, eval_only=False):
    flags = ["--resume"] * resume + ["--eval-only"] * eval_only
    words = ["--config-file", config, *flags, f"train.output_dir={output_dir}", *overrides]
    args = default_argument_parser().parse_args(words)
    args.dist_url = "auto"
    return args


def in_a_process(args):
    """Run a job in a process, and process group, of its own; returns its exit code."""
    return in_processes([{}], args)[0]


def in_two_processes(args):
    """Run a job in two processes with the variables that torchrun sets; returns the exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    ranks = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": "2"} | address for i in range(2)]
    return in_processes(ranks, args)


def in_processes(environments, args):
    """Run a job in a forked process for each of several environments; returns the exit codes."""
    fork = mp.get_context("fork")
    processes = [fork.Process(target=_child, args=(env, args)) for env in environments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _child(environment, args):
    os.setpgid(0, 0)
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        launch(main, args)
    except SystemExit:
        _assert_no_thread_of_gloo()
        raise
    _assert_no_thread_of_gloo()


def _assert_no_thread_of_gloo():
    """A thread that frees a tensor after Python has ended aborts its process."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in names), names


def losses(output_dir):
    """{iteration: set of all lines "rank images boxes loss weight" it wrote}, to the last bit."""
    seen = {}
    for line in (Path(output_dir) / "losses.txt").read_text().splitlines():
        iteration, rest = line.split(" ", 1)
        seen.setdefault(int(iteration), set()).add(rest)
    return seen


def assert_same_run(folder, whole):
    """Both runs had the same batches and losses, and ended with the same weights."""
    assert losses(folder) == losses(whole)
    first, second = (
        torch.load(path / "model_final.pth", weights_only=True) for path in (folder, whole)
    )
    for name, weight in first["model"].items():
        assert torch.equal(weight, second["model"][name]), name
    steps = first["trainer"]["optimizer"], second["trainer"]["optimizer"]
    assert steps[0]["param_groups"] == steps[1]["param_groups"]


def command(output_dir, *words, config=TOY, starter=()):
    """Run the training script, by itself or by `python <starter>`."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(TOOL.parents[1]))
    script = [sys.executable, *starter, str(TOOL), "--config-file", config]
    return subprocess.run(
        [*script, *words, f"train.output_dir={output_dir}"],
        env=environment,
        capture_output=True,
        text=True,
    )
