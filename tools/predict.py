#!/usr/bin/env python
"""`co-detr predict` as a script, with weights and pictures as options.

    python tools/predict.py --weights output/birds/model_best.pth \\
        --input photo.jpg folder/ "shots/*.png" --output out/
"""

import argparse
import sys

from co_detr.arguments import parse_arguments
from co_detr.inference import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="the checkpoint; same as train.init_checkpoint=FILE"
    )
    parser.add_argument("--input", nargs="+", required=True, help="pictures, folders, patterns")
    command.add_options(parser)
    args = parse_arguments(parser, argv)
    if fault := command.fault_of(args):
        parser.error(fault)
    return args


def main(argv: list[str] | None = None) -> int:
    return command.run(parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
