"""Measure how well weights detect what is in the validation pictures of a config.

    co-detr evaluate birds.py output/birds/model_best.pth
    co-detr evaluate birds.py                  # the last checkpoint in train.output_dir
    co-detr evaluate birds.py model.pth --tta  # slower and better: in several sizes
    co-detr evaluate birds.py model.pth dataloader.test.dataset.names=birds_test

The APs are printed, and written to evaluation.json in train.output_dir.
"""

import argparse

from co_detr.arguments import user_path

from . import engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    engine.add_arguments(parser)
    parser.add_argument(
        "weights",
        nargs="?",
        type=user_path,
        metavar="WEIGHTS",
        help="a checkpoint; by default the last one of the config's training",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="look at pictures in several sizes and, if trained so, mirrored",
    )


def run(args: argparse.Namespace) -> int:
    words = ["--resume"]
    if args.weights is not None:
        if not args.weights.is_file():
            raise FileNotFoundError(
                f"there is no {args.weights}: give a checkpoint, such as model_best.pth in the "
                "train.output_dir of a training"
            )
        words = [f"train.init_checkpoint={args.weights}"]
    engine.start(args, "--eval-only", *(["--tta"] if args.tta else []), *words)
    return 0
