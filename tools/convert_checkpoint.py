#!/usr/bin/env python
"""Convert released Co-DETR weights to a checkpoint of this project.

    python tools/convert_checkpoint.py SRC DST --config-file configs/<the config it belongs to>.py

SRC is a released file (mmdetection 2.x or 3.x format, `.pth` or `.safetensors`), or with `--from
transformers` a Deformable-, Conditional- or DAB-DETR of Hugging Face transformers. DST is written
as `.safetensors` (tensors only) or `.pth` (detectron2's format). Nothing is guessed: a tensor that
is left over on either side stops the conversion with its name. Files are read without running
anything they contain; one that holds more than tensors and plain values is refused.

To fine-tune on other classes, give the config its number of classes and
`--change-classes`: class layers then start anew, except rows of classes that are called the same in
`--source-names` and `--target-names` (files with one name per line, or COCO-format json).
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import torch
from detectron2.config import LazyConfig, instantiate
from safetensors.torch import save
from tabulate import tabulate

from co_detr.checkpoint.class_layers import change_classes, class_layer
from co_detr.checkpoint.official import official_table
from co_detr.checkpoint.reading import read_tensors
from co_detr.checkpoint.rename import rename
from co_detr.checkpoint.transformers import tidy, transformers_table
from co_detr.engine.build import without_pretrained
from co_detr.engine.files import whole_file


def class_names(path: str | None) -> list[str]:
    """Names by line, or by id from the categories of a COCO-format json."""
    if path is None:
        return []
    if path.endswith(".json"):
        with open(path) as file:
            categories = json.load(file)["categories"]
        return [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    return Path(path).read_text().split("\n")[:-1]


def summary(report: list[tuple[str, str | None]], source: dict[str, torch.Tensor]) -> str:
    """A table of what went where, by module."""
    tensors, values = Counter(), Counter()
    for theirs, ours in report:
        key = (_module(theirs), "(dropped)" if ours is None else _module(ours))
        tensors[key] += 1
        values[key] += source[theirs].numel()
    rows = [(*key, count, f"{values[key]:,}") for key, count in tensors.items()]
    return tabulate(rows, ["from", "to", "tensors", "values"], disable_numparse=True)


def _module(name: str) -> str:
    """The name up to the first layer number, at most three parts."""
    parts = name.split(".")[:-1]
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: max(1, min(3, numbered))])


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(str(path), "wb") as file:
        if path.suffix == ".safetensors":
            file.write(save(tensors))
        else:
            torch.save({"model": tensors}, file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("target", metavar="DST", type=Path)
    parser.add_argument("--config-file", required=True)
    parser.add_argument(
        "--from",
        dest="origin",
        choices=("release", "transformers"),
        default="release",
        help="whose names SRC has: those of the authors' release, or of Hugging Face transformers",
    )
    parser.add_argument("--ema", action="store_true", help="take the moving averages")
    parser.add_argument("--change-classes", action="store_true", help="let class layers start anew")
    parser.add_argument("--source-names", help="classes of SRC, in order")
    parser.add_argument("--target-names", help="classes of the config, in order")
    parser.add_argument("opts", nargs="*", help="key=value changes of the config")
    args = parser.parse_args()
    if args.target.suffix not in (".safetensors", ".pth"):
        parser.error(f"DST must end in .safetensors or .pth, got {args.target}")

    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    try:
        source = read_tensors(args.source, ema=args.ema)
        model = instantiate(without_pretrained(cfg.model))
        any_shape = class_layer if args.change_classes else lambda name: False
        table = official_table
        if args.origin == "transformers":
            source, table = tidy(source, model), transformers_table
        converted, report = rename(source, table(model), model.state_dict(), any_shape)
        names = class_names(args.source_names), class_names(args.target_names)
        converted, replaced = change_classes(converted, model.state_dict(), *names)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"error: {error}")
    write(converted, args.target)
    print(summary(report, source))
    for name in replaced:
        print(f"started anew for {model.num_classes} classes: {name}")
    print(f"{len(converted)} tensors written to {args.target}")


if __name__ == "__main__":
    main()
