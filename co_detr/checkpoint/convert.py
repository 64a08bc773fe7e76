"""Conversion of weights, checkpoint to checkpoint; its command line is in `command.py`."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from safetensors.torch import save
from tabulate import tabulate
from torch import Tensor, nn

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
from co_detr.checkpoint.matching import UnfittingCheckpointError, compare, first_of
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
    tensors: Counter[tuple[str, str]] = Counter()
    values: Counter[tuple[str, str]] = Counter()
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
            metadata = {CLASS_NAMES: json.dumps(list(class_names))} if class_names else {}
            file.write(save(tensors, metadata | card.to_metadata()))
        else:
            known = {CLASS_NAMES: list(class_names)} if class_names else {}
            torch.save({"model": tensors, **known, MODEL_CARD: card.to_dict()}, file)


def under_our_names(
    source: dict[str, Tensor], model: nn.Module, any_shape: Callable[[str], object]
) -> tuple[dict[str, Tensor], list[tuple[str, str | None]]]:
    """The tensors by the model's names, and what became of each; those of a checkpoint of this
    project stay what they are.

    Raises:
        UnfittingCheckpointError: the model is no `CoDETR`, and the tensors are not those of it.
        ConversionError: as `rename`.
    """
    if not is_official(source):
        ours = under_names_of(source, model)
        comparison = compare(ours, model)
        if not (comparison.missing or comparison.unexpected) and all(
            any_shape(entry.name) for entry in comparison.misshapen
        ):
            return ours, [(name, name) for name in ours]
        if not isinstance(model, CoDETR):
            raise UnfittingCheckpointError(comparison.describe())
    assert isinstance(model, CoDETR)  # `convert` sees to it where names are official
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

    before: Sequence[str] | None = checkpoint.class_names
    now: Sequence[str] | None = None
    if by_name:
        count = num_classes_of(converted)
        before = read_names(args.source_names) if args.source_names else before
        if not before and count is not None:
            before = known_by_number(count)
        now = read_names(args.target_names) if args.target_names else classes_of_config(cfg)
    changed = change_classes(converted, model, (before or ()) if by_name else (), now or ())
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
