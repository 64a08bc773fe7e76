"""Maps of the discriminability scores."""

import argparse

from ..command import add_data_options
from ..models import load_model
from ..output import Drawing

HELP = "where the discriminability scores are high, picture by picture (figure 3)"
COLUMNS = ("image", "model", "mean on objects", "mean on background", "area under the curve")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, images=4)
    parser.add_argument(
        "--score",
        choices=["encoder", "decoder"],
        default="encoder",
        help="of encoder features, or of the decoder's cross-attention; %(default)s",
    )


def run(args: argparse.Namespace) -> list[Drawing]:
    from ..discriminability import contrast, regions_of
    from ..examples import annotated_loader, rgb, with_progress
    from ..passes import has_decoder
    from ..plots.score_maps import ScoredPicture, draw_score_maps
    from ..score_maps import score_images

    pictures: dict[int | str, ScoredPicture] = {}
    rows = []
    for files in args.models:
        loaded = load_model(files, args.opts)
        if args.score == "decoder" and not has_decoder(loaded.model):
            raise ValueError(f"{files.label} has no decoder: leave out --score decoder")
        loader = annotated_loader(loaded.cfg, args.images, args.image_ids)
        for image in score_images(loaded.model, with_progress(loader, files.label)):
            scores = image.encoder if args.score == "encoder" else image.decoder
            if scores is None:
                continue
            boxes = image.example["instances"].gt_boxes.tensor
            picture = rgb(image.example, loaded.model.image_format)
            number = image.example["image_id"]
            drawn = pictures.setdefault(number, ScoredPicture(picture, boxes.numpy(), {}))
            drawn.scores[files.label] = scores.cpu().numpy()
            rows.append((number, files.label, *contrast(scores, *regions_of(image))))
    if not pictures:
        raise ValueError("none of the images has an object: look at more with --images")
    name = "score_maps" if args.score == "encoder" else "attention_maps"
    return [Drawing(name, draw_score_maps(list(pictures.values())), COLUMNS, rows)]
