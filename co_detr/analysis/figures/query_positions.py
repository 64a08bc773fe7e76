"""Positions of original and customized positive queries, and their average distances."""

import argparse

from ..command import add_data_options, at_least_one
from ..models import load_model
from ..output import Drawing

HELP = "where original and customized positive queries are, and how far apart (figure 7)"
POSITIONS = ("model", "image", "query", "x", "y")
DISTANCES = ("model", "head", "to original positives", "to original negatives")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, images=None)
    parser.add_argument(
        "--pictures",
        type=at_least_one,
        default=4,
        metavar="N",
        help="so many are drawn, the first ones with objects; %(default)s",
    )


def run(args: argparse.Namespace) -> list[Drawing]:
    from ..examples import annotated_loader, with_progress
    from ..plots.query_positions import ObjectQueries, draw_distances, draw_positions
    from ..query_positions import Distances, locate_queries

    drawn: dict[str, list[ObjectQueries]] = {}
    positions: list[tuple[str, int, str, float, float]] = []
    distances: list[tuple[str, str, float, float]] = []
    for files in args.models:
        loaded = load_model(files, args.opts)
        loader = annotated_loader(loaded.cfg, args.images, args.image_ids)
        objects = drawn.setdefault(files.label, [])
        of_heads: dict[str, Distances] = {}
        batches = with_progress(loader, files.label)
        for example, queries in locate_queries(loaded.model, batches):
            for head, customized in queries.customized.items():
                of_head = of_heads.setdefault(head, Distances())
                of_head.add(customized, queries.original, queries.negatives)
            if len(example["instances"]) and len(objects) < args.pictures:
                objects.append(_largest_object(example, queries, loaded.model.image_format))
                positions += _rows(files.label, example["image_id"], objects[-1])
        distances += [(files.label, head, *each.means()) for head, each in of_heads.items()]
    if not positions:
        raise ValueError("none of the images has an object: look at more with --images")
    several = len(args.models) > 1
    names = [f"{row[0]}\n{row[1]}" if several else row[1] for row in distances]
    bars = draw_distances(names, [row[2] for row in distances], [row[3] for row in distances])
    return [
        Drawing("query_positions", draw_positions(drawn), POSITIONS, positions),
        Drawing("query_distances", bars, DISTANCES, distances),
    ]


def _largest_object(example, queries, image_format):
    """The `ObjectQueries` of the object with the largest box."""
    from ..examples import rgb
    from ..plots.query_positions import ObjectQueries

    boxes = example["instances"].gt_boxes
    number = int(boxes.area().argmax())
    picture = rgb(example, image_format)
    size = picture.shape[1::-1]
    return ObjectQueries(
        picture,
        boxes.tensor[number].numpy(),
        queries.original.of(number).cpu().numpy() * size,
        {head: each.of(number).cpu().numpy() * size for head, each in queries.customized.items()},
    )


def _rows(label, image_id, drawn):
    named = {"original": drawn.original, **drawn.customized}
    return [
        (label, image_id, name, float(x), float(y))
        for name, points in named.items()
        for x, y in points
    ]
