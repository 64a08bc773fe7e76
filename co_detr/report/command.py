"""Show what an evaluation has found, as one HTML page.

    co-detr report --predictions output/inference/coco_instances_results.json \\
        --annotations datasets/birds/val.json --images datasets/birds/val --output report.html

AP by size and class, precision over recall, confusions, kinds of errors and what each costs, how
far scores can be trusted and which to keep, the worst pictures, and labels that may be wrong
themselves. The file needs no others: it can be sent, opened anywhere, and printed.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from co_detr.arguments import at_least_one, user_path
from co_detr.inference.command import score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files to read and to write, and how to count."""
    add_file = partial(parser.add_argument, type=user_path, metavar="FILE")
    add_file("--predictions", required=True, help="a JSON list of results, as evaluation writes")
    add_file("--annotations", required=True, help="COCO- or LVIS-format JSON")
    add_file("--output", default=Path("report.html"), help="default: %(default)s")
    parser.add_argument(
        "--images", type=user_path, metavar="FOLDER", help="of the pictures, to show the worst"
    )
    parser.add_argument(
        "--iou-type", choices=("bbox", "segm"), default="bbox", help="boxes or masks"
    )
    parser.add_argument(
        "--rules", choices=("coco", "lvis"), default="coco", help="of the evaluation"
    )
    parser.add_argument(
        "--precision",
        type=score,
        metavar="P",
        help="recommend scores with this precision (0 to 1), instead of the best F1",
    )
    parser.add_argument(
        "--pictures", type=at_least_one, default=12, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--title", help="of the page; by default the name of the predictions")


def run(args: argparse.Namespace) -> int:
    """Write the page; OSError, ValueError or ImportError say why that is impossible."""
    if args.images is not None and not args.images.is_dir():
        raise FileNotFoundError(f"--images {args.images} is no folder")
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import supervision  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}: the report needs pip install 'co-detr[report]'") from error

    from co_detr.engine.files import whole_file

    from .loading import read_problem
    from .page import render

    problem = read_problem(args.annotations, args.predictions, args.iou_type, args.rules)
    page = render(
        problem,
        args.title or f"{args.predictions.absolute().parent.name}/{args.predictions.stem}",
        images=args.images,
        precision=args.precision,
        most_pictures=args.pictures,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(str(args.output), "wb") as file:
        file.write(page.encode())
    print(f"{args.output}: {len(page.encode()) / 2**20:.2f} MiB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command by itself.

    Args:
        argv: the words; None for those of this process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
