"""Train a model by a config.

    co-detr train birds.py
    co-detr train birds.py --resume        # go on after an interruption
    co-detr train birds.py optimizer.lr=1e-4 "train.output_dir=~/runs/slower"

Checkpoints, log, metrics and TensorBoard's events are in the config's train.output_dir. All GPUs of
the machine are used, or the CPU. For several machines, or torchrun and srun, there is
`python -m co_detr.engine --config-file birds.py`.
"""

import argparse

from . import engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    engine.add_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint, if there is one"
    )


def run(args: argparse.Namespace) -> int:
    engine.start(args, *(["--resume"] if args.resume else []))
    return 0
