"""Write a detector to a file that other runtimes read, checked against the detector on a picture.

    co-detr export model_best.pth birds.onnx --picture photo.jpg
    co-detr export model_best.pth birds.onnx --picture photo.jpg --size 640 640 --nms 0.7
    co-detr export model_best.pth birds.pt2 --picture photo.jpg
    co-detr export co_dino.safetensors co_dino.onnx --picture photo.jpg \\
        --config-file co_dino/co_dino_r50_5scale_12ep

A name in .onnx makes a file of ONNX, one in .pt2 that of `torch.export`.

The file takes padded pictures (N, 3, H, W) and their sizes (N, 2), and gives boxes in pixels,
scores and labels; `OnnxDetector` and `TorchDetector` of `co_detr.export.detectors` run it on
pictures of any kind. Where what it finds on the picture is not what the detector finds, no file is
left and the exit code is 1.
"""

import argparse
import logging
import math

from co_detr.arguments import user_path

logger = logging.getLogger("co_detr.export")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=user_path, help="a checkpoint")
    parser.add_argument("output", metavar="FILE", type=user_path, help="the file to be written")
    parser.add_argument(
        "--config-file", help="of a checkpoint without one: a file, or a name of the model zoo"
    )
    parser.add_argument(
        "--format",
        choices=("onnx", "torch"),
        help="for names of other suffixes; default: by that of FILE, .onnx or .pt2",
    )
    parser.add_argument(
        "--picture", required=True, type=user_path, help="a photo, on which the file is checked"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the input; default: the square that holds all pictures as the model is tested, or "
        "the size of the picture if the model takes any",
    )
    parser.add_argument(
        "--nms",
        default="model",
        metavar="IOU",
        help='an IoU for NMS, "none", or "model" for what the config has (%(default)s)',
    )
    parser.add_argument("--opset", type=int, default=20, help="of ONNX; default: %(default)s")
    parser.add_argument(
        "--tolerance",
        type=_positive,
        default=1e-3,
        metavar="PIXELS",
        help="by how much boxes may differ in the check; default: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Export; 1 if the file differs from the detector.

    Raises:
        ValueError: the name of the file and `--format` do not tell one format, or as `export`.
        ModuleNotFoundError, TypeError: as `export`.
    """
    from .exporting import format_of

    format = format_of(args.output, args.format)
    if format == "onnx":
        from co_detr.export.files import require_extra

        require_extra()  # before anything slow

    from detectron2.utils.logger import setup_logger

    from co_detr.export.check import ExportDiffersError
    from co_detr.export.exporting import export, set_nms
    from co_detr.inference.detector import load_detector

    setup_logger(name="co_detr")
    detector = load_detector(
        args.weights,
        config_file=args.config_file,
        overrides=getattr(args, "opts", None) or (),
        device="cpu",
    )
    set_nms(detector.model, args.nms)
    try:
        difference = export(
            detector,
            args.output,
            args.picture,
            format=format,
            size=None if args.size is None else tuple(args.size),
            tolerance=args.tolerance,
            opset=args.opset,
        )
    except ExportDiffersError as error:
        logger.error(f"{args.output} was not written: {error}")
        return 1
    size = args.output.stat().st_size / 1e6
    logger.info(f"{args.output}, {size:.1f} MB, checked on {args.picture}: {difference}")
    return 0


def _positive(text: str) -> float:
    number = float(text)
    if not (0 < number and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
