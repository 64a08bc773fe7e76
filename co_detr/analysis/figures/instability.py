"""Figure 5: how much the matching of queries to objects changes during a training."""

import argparse

from ..command import add_image_options, at_least_one
from ..models import ModelFiles, add_run_options, load_model
from ..output import Drawing

HELP = "instability of the matching from checkpoint to checkpoint of trainings (figure 5)"
COLUMNS = ("run", "iteration", "compared with", "instability", "standard error")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument(
        "--every",
        type=at_least_one,
        default=1,
        metavar="N",
        help="compare every Nth checkpoint with the one N before, such as one per epoch; "
        "%(default)s",
    )
    add_image_options(parser, images=200)


def run(args: argparse.Namespace) -> list[Drawing]:
    from tqdm import tqdm

    from ..examples import annotated_loader
    from ..instability import changes, checkpoints_of_run, largest_instability, matchings_of_run
    from ..plots.instability import draw_instability

    checkpoints = [checkpoints_of_run(training.folder, args.every) for training in args.trainings]
    curves, largest = {}, 0.0
    for training, saved in zip(args.trainings, checkpoints):
        first = ModelFiles(training.label, training.config_file, next(iter(saved.values())))
        loaded = load_model(first, args.opts)
        batches = list(annotated_loader(loaded.cfg, args.images, args.image_ids))
        largest = max(largest, largest_instability(batches))
        matchings = matchings_of_run(loaded.model, saved, batches)
        progress = tqdm(matchings, desc=training.label, total=len(saved), unit="checkpoint")
        curves[training.label] = list(changes(progress))
    rows = [
        (label, change.iteration, change.previous, change.instability, change.error)
        for label, curve in curves.items()
        for change in curve
    ]
    return [Drawing("instability", draw_instability(curves, largest), COLUMNS, rows)]
