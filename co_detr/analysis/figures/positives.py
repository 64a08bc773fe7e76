"""Positive samples per object of every auxiliary head."""

import argparse

from ..command import add_data_options
from ..models import load_model
from ..output import Drawing

HELP = "positive samples per object of every auxiliary head (appendix A)"
COLUMNS = ("model", "head", "positives", "objects", "positives per object")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, images=None)


def run(args: argparse.Namespace) -> list[Drawing]:
    from ..examples import annotated_loader, with_progress
    from ..plots.positives import draw_positives
    from ..positives import count_positives

    rows = []
    for files in args.models:
        loaded = load_model(files, args.opts)
        loader = annotated_loader(loaded.cfg, args.images, args.image_ids)
        counts = count_positives(loaded.model, with_progress(loader, files.label))
        for head, ratio in counts.per_object().items():
            rows.append((files.label, head, counts.positives[head], counts.objects, ratio))
    several = len(args.models) > 1
    names = [f"{row[0]}: {row[1]}" if several else row[1] for row in rows]
    figure = draw_positives(names, [row[-1] for row in rows])
    return [Drawing("positives", figure, COLUMNS, rows)]
