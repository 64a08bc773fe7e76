"""Figures 6, 8 and 9: distances between the heads of models."""

import argparse
import re

from ..command import add_data_options
from ..models import load_model
from ..output import Drawing

HELP = "distances between heads, by their Grad-CAM maps (figures 6, 8 and 9)"
PAIRS = ("model", "head", "other head", "distance", "standard error")
AVERAGES = ("model", "K", "head", "average distance")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, images=200)
    parser.add_argument(
        "--epsilon",
        type=float,
        default=0.01,
        help="share of a map that is spread evenly, without which distances may be infinite; "
        "%(default)s",
    )


def run(args: argparse.Namespace) -> list[Drawing]:
    """A matrix of each model (figures 8, 9), and their average distances (figure 6)."""
    from ..examples import annotated_loader, with_progress
    from ..head_distances import distances_of_heads, model_distances
    from ..head_maps import head_names
    from ..plots.head_distances import draw_averages, draw_matrix

    drawings, averages, rows = [], {}, []
    for files in args.models:
        loaded = load_model(files, args.opts)
        loader = annotated_loader(loaded.cfg, args.images, args.image_ids)
        of_images = distances_of_heads(
            loaded.model, with_progress(loader, files.label), args.epsilon
        )
        heads, matrix = head_names(loaded.model), of_images.mean(0)
        errors = of_images.std(0) / len(of_images) ** 0.5
        drawings.append(
            Drawing(
                f"head-distances-{file_name(files.label)}",
                draw_matrix(heads, matrix, files.label),
                PAIRS,
                [
                    (files.label, head, other, matrix[i, j].item(), errors[i, j].item())
                    for i, head in enumerate(heads)
                    for j, other in enumerate(heads)
                    if i != j
                ],
            )
        )
        averages[files.label] = dict(zip(heads[1:], model_distances(matrix).tolist()))
    rows = [
        (label, len(of_heads), head, distance)
        for label, of_heads in averages.items()
        for head, distance in of_heads.items()
    ]
    return [*drawings, Drawing("head-distances", draw_averages(averages), AVERAGES, rows)]


def file_name(label: str) -> str:
    """A label with "-" for all that does not belong into the names of files."""
    return re.sub(r"[^\w.]+", "-", label).strip("-")
