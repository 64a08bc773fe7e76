"""Detect objects in pictures and videos, draw them, and write them as COCO-style annotations.

    co-detr predict output/birds/model_best.pth photo.jpg folder/ "shots/*.png" --output out/
    co-detr predict output/birds/model_best.pth flight.mp4 camera:0 --track
    co-detr predict output/birds/model_best.pth aerial.tif --tiles 800 --format yolo labelstudio

Checkpoints bring the config of their model along. One that was written before they did needs it:
--config-file co_dino_r50

Into the output folder go one picture per picture and `predictions.json`, which pycocotools and
labelling tools read: `images`, `categories` and `annotations`, each with a `score`. Pictures that
cannot be read are counted and left out. An interrupted run leaves the files of what it has done.
Neither a picture that is read nor, without --overwrite, the results of another run are written on.

For the pictures of a dataset, with the ids that its annotation file gives them, a list of results
as COCO and LVIS evaluate it, with all detections whatever their scores:

    co-detr predict model.pth val2017/ --annotations instances_val2017.json --results results.json

The exit code is 1 if no picture or too few could be read, and 128 plus the signal's number if it
was interrupted.

Of a video (a file, or a camera by number, "camera:0") come a video with boxes, and a line of JSON
per frame. They keep its sound, and hold what was done when it is interrupted.
"""

# Nothing heavy up here: `--help` is to answer at once.
import argparse
import logging
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from co_detr.arguments import user_path
from co_detr.inference import ways
from co_detr.inference.names import TOP_LEVEL, TRACKERS

logger = logging.getLogger("co_detr.predict")

UNREADABLE = "could not be read"
NOT_LISTED = "not listed in the annotations"
LISTED_TWICE = "of an id that another picture has"


def predict(
    detector: Any,
    paths: list[Path],
    writer: Any,
    threshold: float,
    ids: Any | None = None,
    skipped: Counter[str] | None = None,
) -> tuple[int, bool]:
    """Predict on picture files.

    Args:
        detector: a `Detector`.
        paths: of the pictures.
        writer: the `ResultWriter` that gets the results.
        threshold: least score of what is drawn.
        ids: the `DatasetIds` of the pictures; None numbers them.
        skipped: counts what is left out, by reason.

    Returns:
        How many pictures were read, and whether too many could not be, see `UnreadableCount`.
    """
    from tqdm import tqdm

    from co_detr.data import UnreadablePicture, read_picture
    from co_detr.data.unreadable import UnreadableCount
    from co_detr.inference.drawing import draw

    names = [category["name"] for category in writer.categories]
    skipped = Counter() if skipped is None else skipped
    count = UnreadableCount(total=len(paths))
    used = set()
    for path in tqdm(paths, unit="image"):
        image_id = count.num_read + 1 if ids is None else ids.image_id(path)
        if image_id is None or image_id in used:
            skipped[NOT_LISTED if image_id is None else LISTED_TWICE] += 1
            continue
        try:
            image = read_picture(path)
        except UnreadablePicture as error:
            count.add_unreadable(error)
            skipped[UNREADABLE] += 1
            continue
        (instances,) = detector.predict([image])
        drawn = draw(image, instances[instances.scores >= threshold], names)
        writer.add(path, image_id, drawn, instances, threshold)
        used.add(image_id)
        count.add_read()
    return count.num_read, count.exceeds_limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help="a checkpoint")
    parser.add_argument(
        "input", nargs="+", metavar="PICTURE", help="pictures, folders, patterns, videos, cameras"
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but the weights and the pictures."""
    parser.add_argument(
        "--config-file",
        help="a file, or a name of the model zoo; without it, the config in the checkpoint",
    )
    parser.add_argument("--recursive", action="store_true", help="look into folders of folders")
    parser.add_argument(
        "--output", type=user_path, default=Path("output/predictions"), help="a folder; %(default)s"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run wrote there"
    )
    parser.add_argument(
        "--confidence-threshold",
        type=score,
        default=0.5,
        metavar="SCORE",
        help="least score, 0 to 1; %(default)s",
    )
    parser.add_argument(
        "--results", type=user_path, metavar="FILE", help="write a COCO results list"
    )
    parser.add_argument(
        "--annotations", type=user_path, metavar="FILE", help="gives ids of images and categories"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=[],
        choices=["coco", *TOP_LEVEL],
        metavar="FORMAT",
        help=f"further files for labelling tools: {', '.join(TOP_LEVEL)}; coco is always there",
    )
    parser.add_argument(
        "--track",
        nargs="?",
        const=next(iter(TRACKERS)),
        choices=list(TRACKERS),
        metavar="TRACKER",
        help=f"number the objects of a video: {', '.join(TRACKERS)}; by default the first",
    )
    ways.add_options(parser)


def score(text: str) -> float:
    """For `add_argument(type=...)`: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def fault_of(args: argparse.Namespace) -> str | None:
    """Why the options do not go together, if so."""
    if args.results is not None and args.annotations is None:
        return "--results needs --annotations FILE: the dataset's ids are in there"
    return None


def run(args: argparse.Namespace) -> int:
    """Predict; returns the exit code.

    Args:
        args: weights, None where `opts` name them; input and the options; opts.

    Raises:
        ValueError, OSError, KeyError: what is asked for cannot be done; says what to do.
    """
    if fault := fault_of(args):
        raise ValueError(fault)

    from detectron2.utils.logger import setup_logger

    from co_detr.inference.dataset_ids import DatasetIds
    from co_detr.inference.detector import build_detector
    from co_detr.inference.drawing import import_supervision
    from co_detr.inference.formats import check_names
    from co_detr.inference.inputs import find_pictures
    from co_detr.inference.loading import find_config
    from co_detr.inference.predictor import known_categories
    from co_detr.inference.tracking import Tracker
    from co_detr.inference.video import is_video
    from co_detr.inference.video_predictor import predict_video, video_targets
    from co_detr.inference.writers import ResultWriter

    setup_logger(name="co_detr")
    import_supervision()  # missing, it is not to be found out after the first picture
    videos = [name for name in args.input if is_video(name)]
    names = [name for name in args.input if name not in videos]
    paths: list[Path] = []
    skipped: Counter[str] = Counter()
    if names:
        paths, skipped = find_pictures(names, recursive=args.recursive, output=args.output)
    if "yolo" in args.format:
        check_names(paths)
    cfg, checkpoint = find_config(args.weights, args.config_file, args.opts)
    categories, named = known_categories(cfg, checkpoint)
    ids = None
    if args.annotations is not None:
        ids = DatasetIds(args.annotations)
        categories = ids.categories_of(categories, named)
    detector = build_detector(cfg, checkpoint, categories, config_file=args.config_file)
    detector = ways.apply(detector, args)
    targets = video_targets(videos, args.output, overwrite=args.overwrite)
    inputs = [*paths, *([args.annotations] if ids else [])]
    writer = None
    if paths:
        writer = ResultWriter(
            args.output,
            inputs,
            categories,
            results=args.results,
            formats=[name for name in args.format if name != "coco"],
            overwrite=args.overwrite,
        )

    code = 0
    before = signal.signal(signal.SIGTERM, _end)
    try:
        if writer is not None:
            threshold = args.confidence_threshold
            read, too_many = predict(detector, paths, writer, threshold, ids, skipped)
            if too_many or not read:
                logger.error(f"{skipped[UNREADABLE]} of {len(paths)} pictures could not be read")
                code = 1
        for name, target in targets.items():
            track = Tracker(args.track, args.confidence_threshold) if args.track else None
            frames = predict_video(
                detector, name, target, threshold=args.confidence_threshold, track=track
            )
            logger.info(f"{frames} frames in {target}")
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Terminated:
        code = 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
        if writer is not None:
            writer.finish()
    reasons = "".join(f"; {n} {reason}" for reason, n in skipped.items() if n)
    interrupted = "interrupted: " if code > 128 else ""
    if writer is not None:
        logger.info(f"{interrupted}{writer.num_pictures} pictures in {args.output}{reasons}")
    elif interrupted:
        logger.info(f"interrupted: {args.output} has what was done")
    return code


class Terminated(BaseException):
    """The process was told to end; like `KeyboardInterrupt`, no `Exception`."""


def _end(*_: Any) -> None:
    raise Terminated
