"""IoF-IoB curves of the encoder's features and of the decoder's cross-attention."""

import argparse

from ..command import add_data_options
from ..models import load_model
from ..output import Drawing

HELP = "how well encoder features and cross-attention tell objects from background (figure 2)"
COLUMNS = ("score", "model", "area under the curve", "threshold", "IoB", "IoF")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, images=None)


def run(args: argparse.Namespace) -> list[Drawing]:
    from ..discriminability import iof_iob
    from ..examples import annotated_loader, with_progress
    from ..plots.discriminability import draw_curves
    from ..score_maps import score_images

    encoders, decoders = {}, {}
    for files in args.models:
        loaded = load_model(files, args.opts)
        loader = annotated_loader(loaded.cfg, args.images, args.image_ids)
        images = score_images(loaded.model, with_progress(loader, files.label))
        encoder, decoder = iof_iob(images)
        encoders[files.label] = encoder
        if decoder is not None:
            decoders[files.label] = decoder
    panels = [("encoder features", encoders), ("decoder cross-attention", decoders)]
    panels = [(title, curves) for title, curves in panels if curves]
    rows = [
        (title, label, curve.area, *point)
        for title, curves in panels
        for label, curve in curves.items()
        for point in curve.thinned().points()
    ]
    return [Drawing("discriminability", draw_curves(panels), COLUMNS, rows)]
