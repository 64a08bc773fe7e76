#!/usr/bin/env python
"""Convert released Co-DETR weights to a checkpoint of this project.

    python tools/convert_checkpoint.py SRC DST --config-file configs/<the config it belongs to>.py

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
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from safetensors.torch import save
from tabulate import tabulate
from torch import Tensor, nn

from co_detr.arguments import parse_arguments, tool_config, user_path
from co_detr.checkpoint.class_layers import (
    ChangedClasses,
    change_classes,
    class_layer,
    num_classes_of,
    ranks_by_first_row,
)
from co_detr.checkpoint.class_names import (
    categories_of_config,
    classes_of_config,
    known_by_number,
    named_categories,
    read_names,
)
from co_detr.checkpoint.matching import compare, first_of
from co_detr.checkpoint.model_card import ModelCard, describe
from co_detr.checkpoint.official import is_official, official_names, official_table
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.checkpoint.reading import CLASS_NAMES, MODEL_CARD, read_checkpoint
from co_detr.checkpoint.rename import rename
from co_detr.checkpoint.transformers import tidy, transformers_table
from co_detr.checkpoint.wrappers import under_names_of
from co_detr.engine.files import whole_file
from co_detr.modeling.detector import CoDETR


def summary(report: list[tuple[str, str | None]], source: dict[str, Tensor]) -> str:
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


def table_of_classes(changed: ChangedClasses) -> str:
    """Which class has which row before and now."""
    rows = [*changed.kept, *((name, "-", "starts anew") for name in changed.fresh)]
    return tabulate(rows, ["class", "row in SRC", "row in DST"], disable_numparse=True)


def write(
    tensors: dict[str, Tensor], path: Path, class_names: Sequence[str] | None, card: ModelCard
) -> None:
    """Write a checkpoint, whole or not at all, with its model's card and, if they are known, the
    names of its classes."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(str(path), "wb") as file:
        if path.suffix == ".safetensors":
            known = {CLASS_NAMES: json.dumps(list(class_names))} if class_names else {}
            file.write(save(tensors, known | card.to_metadata()))
        else:
            known = {CLASS_NAMES: list(class_names)} if class_names else {}
            torch.save({"model": tensors, **known, MODEL_CARD: card.to_dict()}, file)


def under_our_names(
    source: dict[str, Tensor], model: nn.Module, any_shape: Callable[[str], object]
) -> tuple[dict[str, Tensor], list[tuple[str, str | None]]]:
    """The tensors by the model's names, and what became of each; those of a checkpoint of this
    project stay what they are."""
    if not is_official(source):
        ours = under_names_of(source, model)
        comparison = compare(ours, model)
        if not (comparison.missing or comparison.unexpected) and all(
            any_shape(entry.name) for entry in comparison.misshapen
        ):
            return ours, [(name, name) for name in ours]
    return rename(source, official_table(model), model.state_dict(), any_shape)


def convert(args: argparse.Namespace, cfg: DictConfig) -> None:
    """Do what the command line says; ValueError, KeyError or OSError say why that is impossible."""
    checkpoint = read_checkpoint(args.source, ema=args.ema)
    source = official_names(checkpoint.tensors)
    model = instantiate(without_pretrained(cfg.model))
    named = args.source_names or args.target_names
    by_name = args.change_classes or named
    any_shape = class_layer if by_name else lambda name: False
    foreign = args.origin == "transformers" or is_official(source)
    if foreign and not isinstance(model, CoDETR):
        raise ValueError(
            f"published weights are those of a CoDETR, and {args.config_file} is of a "
            f"{type(model).__name__}: convert for the CoDETR that they belong to, and let the "
            "result be the train.init_checkpoint"
        )
    if args.origin == "transformers":
        source = tidy(checkpoint.tensors, model)
        table = transformers_table(model)
        converted, report = rename(source, table, model.state_dict(), any_shape)
    else:
        converted, report = under_our_names(source, model, any_shape)
    if broken := compare(converted, model).non_finite:
        raise ValueError(f"{args.source} is not finite in {len(broken)}: {first_of(broken)}")

    before, now = checkpoint.class_names, None
    if by_name:
        count = num_classes_of(converted)
        before = read_names(args.source_names) if args.source_names else before
        before = before or known_by_number(count) or ()
        now = read_names(args.target_names) if args.target_names else classes_of_config(cfg) or ()
    changed = change_classes(converted, model, before if by_name else (), now or ())
    if named and not (before and now):
        side, option = ("SRC", "--source-names") if now else ("the config", "--target-names")
        raise ValueError(f"the classes of {side} are not known by name: add {option}")

    names = now if by_name else before
    card = describe(cfg, named_categories(names, categories_of_config(cfg)) if names else None)
    write(changed.tensors, args.target, names, card)
    print(summary(report, source | converted))
    if changed.layers and before and now:
        print(table_of_classes(changed))
    for name in changed.layers:
        kept = ", but for the rows above" if changed.kept else ""
        if ranks_by_first_row(name, model):
            kept = ", but for row 0, which says object or not"
        print(f"started anew for {model.num_classes} classes: {name}{kept}")
    print(f"{len(changed.tensors)} tensors written to {args.target}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", type=os.path.expanduser)
    parser.add_argument("target", metavar="DST", type=user_path)
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
    names = {"type": os.path.expanduser, "metavar": "FILE"}
    parser.add_argument("--source-names", help="file with the classes of SRC, in order", **names)
    parser.add_argument(
        "--target-names", help="file with the classes of the config, in order", **names
    )
    args = parse_arguments(parser)
    if args.target.suffix not in (".safetensors", ".pth"):
        parser.error(f"DST must end in .safetensors or .pth, got {args.target}")

    cfg = tool_config(args)
    try:
        convert(args, cfg)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
