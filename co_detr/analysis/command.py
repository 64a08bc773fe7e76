"""The command line of the figures: `tools/analyze.py FIGURE ...`."""

import argparse
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path

from co_detr.arguments import at_least_one, parse_arguments, user_path

from .figures import FIGURES
from .models import add_model_options, models_of, runs_of

logger = logging.getLogger("co_detr.analysis")


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The parser, with a subcommand for each figure."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    figures = parser.add_subparsers(metavar="FIGURE", required=True)
    for name, number in FIGURES.items():
        module = importlib.import_module(f"{__package__}.figures.{name.replace('-', '_')}")
        figure = figures.add_parser(
            name,
            aliases=number.split() if number else [],
            help=module.HELP,
            description=module.HELP,
        )
        figure.set_defaults(run=module.run)
        module.add_options(figure)
        figure.add_argument(
            "--output",
            type=user_path,
            default=Path("output/analysis"),
            help="a folder; %(default)s",
        )
        figure.add_argument("--format", choices=["png", "svg"], default="png", help="%(default)s")
    return parser


def add_data_options(parser: argparse.ArgumentParser, images: int | None) -> None:
    """Options for figures of models over a data set; `images` is the default number of them."""
    add_model_options(parser)
    add_image_options(parser, images)


def add_image_options(parser: argparse.ArgumentParser, images: int | None) -> None:
    """Options that choose images of the data set; `images` is the default number of them."""
    parser.add_argument(
        "--images",
        type=at_least_one,
        default=images,
        metavar="N",
        help=f"look at the first N images; {'all' if images is None else images}",
    )
    parser.add_argument(
        "--image-ids", nargs="+", default=[], metavar="ID", help="or at these alone"
    )


def main(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Draw the figure that a command line asks for, and write its files."""
    parser = build_parser(description)
    args = parse_arguments(parser, argv)
    try:
        if hasattr(args, "model"):
            args.models = models_of(args)
        if hasattr(args, "training"):
            args.trainings = runs_of(args)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))

    import torch
    from detectron2.utils.logger import setup_logger

    from .output import save

    setup_logger(name="co_detr")
    torch.manual_seed(0)  # heads may draw samples: the same ones every time
    for drawing in args.run(args):
        for path in save(drawing, args.output, args.format):
            logger.info(f"Wrote {path}")
