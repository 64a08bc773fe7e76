"""Convert released Co-DETR weights to a checkpoint of this project.

    co-detr convert SRC DST --config-file co_dino_swin_large_5scale_12ep

SRC is a released file (mmdetection 2.x or 3.x format, `.pth` or `.safetensors`), with `--from
transformers` a Deformable-, Conditional- or DAB-DETR of Hugging Face transformers, or a checkpoint
of this project whose classes are to be changed. DST is written as `.safetensors` (tensors only) or
`.pth` (detectron2's format). Nothing is guessed: a tensor that is left over on either side stops
the conversion with its name. Files are read without running anything they contain; one that holds
more than tensors and plain values is refused.

To fine-tune on other classes, give the config its number of classes and `--change-classes`: class
layers then start anew, except rows of classes that are called the same on both sides. Names come
from SRC and from the dataset of the config as far as these are known, else from `--source-names`
and `--target-names`: files with one name per line, COCO-format json, or YAML with `names`. Where
one of the two is given, rows go by name even if both sides have as many classes.
"""

import argparse
import os

from co_detr.arguments import tool_config, user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=os.path.expanduser)
    parser.add_argument("target", metavar="DST", type=checkpoint_path)
    parser.add_argument("--config-file", required=True, help="a file, or a name of the model zoo")
    parser.add_argument(
        "--from",
        dest="origin",
        choices=("release", "transformers"),
        default="release",
        help="whose names SRC has: those of the authors' release, or of Hugging Face transformers",
    )
    parser.add_argument("--ema", action="store_true", help="take the moving averages")
    parser.add_argument("--change-classes", action="store_true", help="let class layers start anew")
    parser.add_argument(
        "--source-names",
        type=os.path.expanduser,
        metavar="FILE",
        help="file with the classes of SRC, in order",
    )
    parser.add_argument(
        "--target-names",
        type=os.path.expanduser,
        metavar="FILE",
        help="file with the classes of the config, in order",
    )


def checkpoint_path(text: str) -> os.PathLike:
    """For `add_argument(type=...)`: a file that can be written as a checkpoint."""
    path = user_path(text)
    if path.suffix not in (".safetensors", ".pth"):
        raise argparse.ArgumentTypeError(f"it must end in .safetensors or .pth, got {path}")
    return path


def run(args: argparse.Namespace) -> int:
    """Convert; ValueError, KeyError or OSError say why that is impossible."""
    from .convert import convert

    convert(args, tool_config(args))
    return 0
