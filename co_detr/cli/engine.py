"""What `train` and `evaluate` share: the engine's options, and its start."""

import argparse

from co_detr.arguments import at_least_one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, as a positional argument, and the number of processes."""
    parser.add_argument(
        "config_file", metavar="CONFIG", help="a file, or a name of the zoo (co-detr zoo)"
    )
    parser.add_argument(
        "--num-gpus",
        type=at_least_one,
        metavar="N",
        help="processes, one for each GPU; by default all GPUs of the machine",
    )


def start(args: argparse.Namespace, *words: str) -> None:
    """Start the processes that train or evaluate.

    Args:
        args: config_file, num_gpus (None for all there are) and opts, changes of the config.
        words: further ones for the command line of `co_detr.engine`; changes of the config there
            win over those of `args`.
    """
    import os

    import torch

    from co_detr.engine.environment import place_in_job
    from co_detr.engine.launch import run

    num_gpus = args.num_gpus
    if num_gpus is None:  # a launcher has one process for each already
        launched = place_in_job(os.environ) is not None
        num_gpus = 1 if launched else max(torch.cuda.device_count(), 1)
    run(["--config-file", args.config_file, "--num-gpus", str(num_gpus), *args.opts, *words])
