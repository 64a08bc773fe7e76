#!/usr/bin/env python
"""Make tables of the paper: train every row on several seeds, and tabulate their AP.

    python tools/ablation.py 2 3 --jobs 2               # digits (prepare_digits.py first): CPU
    python tools/ablation.py all --resume --jobs 2      # continue, or add what other tables need
    python tools/ablation.py 8 --dataset coco --launcher "srun --gres=gpu:8 --ntasks-per-node=8"
    python tools/ablation.py 8 --dataset coco --launcher "torchrun --no-python --nproc-per-node=8"

Tables 2 and 3 (systems), 7 (number of auxiliary heads), 8 (each head), 9 (losses and customized
queries), 10 (longer schedules), 11 (branches), 12 (stacked convolutions), 13 (loss weights). The
runs are in <output>/<data set>/<config>/seed<k>, tables share them. Complete ones are only read,
interrupted ones continue from their last checkpoint. A run that fails does not stop the others; its
log is console.txt in its folder. Ctrl-C and SIGTERM end all runs with a checkpoint.

Each table goes to the screen and to table<N>.md, .csv and .png (AP over iterations) in
<output>/<data set>. Differences within two standard errors are called undecided. The figures of the
paper beside ours are those on COCO.
"""

import argparse
import sys
from pathlib import Path

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

from co_detr.arguments import parse_arguments, user_path

NUMBERS = ("2", "3", "7", "8", "9", "10", "11", "12", "13")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tables",
        nargs="+",
        choices=(*NUMBERS, "all"),
        metavar="TABLE",
        help=f"numbers in the paper: {', '.join(NUMBERS)}; or all",
    )
    parser.add_argument("--dataset", choices=("digits", "coco"), default="digits")
    parser.add_argument("--seeds", type=positive, default=4, help="trainings of each row")
    parser.add_argument(
        "--jobs", type=positive, help="that run side by side; one per GPU by default"
    )
    parser.add_argument("--resume", action="store_true", help="continue in a folder with runs")
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing, tabulate what is complete"
    )
    parser.add_argument("--output", type=user_path, default=Path("output/ablation"))
    parser.add_argument("--threads", type=positive, default=1, help="of each training, on the CPU")
    parser.add_argument(
        "--launcher",
        default="",
        metavar="WORDS",
        help="put before each training command, for one that takes more than a GPU",
    )
    args = parse_arguments(parser)
    numbers = NUMBERS if "all" in args.tables else args.tables
    args.tables = [int(number) for number in dict.fromkeys(numbers)]

    from co_detr.ablation.command import main as make_tables

    try:
        return make_tables(args)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
