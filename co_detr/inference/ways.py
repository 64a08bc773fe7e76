"""Options of a command line on how a detector looks at pictures: in tiles, or repeatedly."""

# Nothing heavy up here: `--help` is to answer at once.
import argparse
from typing import Any

from co_detr.arguments import at_least_one

FUSIONS = ("soft-nms", "weighted")
DEFAULT_OVERLAP = 0.2  # of a tile's side


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ways of looking")
    group.add_argument(
        "--tiles",
        type=at_least_one,
        metavar="PIXELS",
        help="look at large pictures in overlapping squares of this side",
    )
    group.add_argument(
        "--tile-overlap",
        type=at_least_one,
        metavar="PIXELS",
        help="more than the largest objects have; by default a fifth of a tile",
    )
    group.add_argument(
        "--tta",
        nargs="?",
        const=FUSIONS[0],
        choices=FUSIONS,
        metavar="FUSION",
        help="look in several sizes and, if the model was trained so, mirrored, and merge by "
        f"{' or '.join(FUSIONS)}; by default the former",
    )
    group.add_argument(
        "--batch-size",
        type=at_least_one,
        default=1,
        metavar="N",
        help="tiles or frames that go through the model together; %(default)s",
    )


def apply(detector: Any, args: argparse.Namespace) -> Any:
    """The detector as the options want it; augmentation happens within tiles.

    Raises:
        ValueError: an overlap without tiles, or one that is as large as they are.
    """
    from .fusion import Suppressing, WeightedBoxesFusion
    from .tiles import TiledDetector
    from .tta import augmented

    detector.batch_size = args.batch_size
    if args.tta is not None:
        fusion = WeightedBoxesFusion() if args.tta == "weighted" else Suppressing()
        detector = augmented(detector, fusion=fusion)
    if args.tiles is not None:
        overlap = args.tile_overlap
        if overlap is None:
            overlap = round(DEFAULT_OVERLAP * args.tiles)
        return TiledDetector(detector, tile=args.tiles, overlap=overlap)
    if args.tile_overlap is not None:
        raise ValueError("--tile-overlap belongs to --tiles PIXELS")
    return detector
