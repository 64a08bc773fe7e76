#!/usr/bin/env python
"""Count parameters and multiply-adds of models, from their configs alone.

    python tools/analyze_model.py --config-file configs/<...>.py                      by module
    python tools/analyze_model.py --config-file configs/<...>.py --input-size 640 640
    python tools/analyze_model.py --update MODEL_ZOO.md       all of its rows, in place

Models are built without content (on the "meta" device), so the largest takes seconds and little
memory. Counted is the inference of one image of the size that the config tests at; one
multiply-add counts as one FLOP, as in fvcore and in the papers on DETR. What is not counted is
listed below the table.
"""

import argparse
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torchvision.ops import roi_align

from co_detr.arguments import parse_arguments, tool_config, user_path
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.modeling.aux_heads.base import AuxHead
from co_detr.modeling.aux_heads.dense import DenseHead
from co_detr.modeling.aux_heads.roi_pooler import PyramidPooler

Size = tuple[int, int]
BEFORE_HEADS = ("backbone.", "neck.", "encoder.", "pyramid.")
TRAINING_ONLY = ("aux_heads", "pyramid", "query_sources")  # of the last, all but "matching"


@dataclass(frozen=True)
class Analysis:
    """What `analyze` finds out about a model.

    Attributes:
        parameters: by module name; "" is the whole model.
        multiply_adds: likewise, of the modules that inference uses.
        inference_parameters: of all but what only training uses.
        uncounted: operators that are not among the multiply-adds, with the number of values they
            return.
    """

    parameters: dict[str, int]
    multiply_adds: dict[str, int]
    inference_parameters: int
    uncounted: dict[str, int]


def analyze(model: nn.Module, size: Size) -> Analysis:
    """Count one inference of a `Detector` on an image of size (height, width).

    Boxes come from nowhere here, so parts that depend on their values are replaced: what selects
    detections and proposals, by as many as it keeps at most; and the choice of a pyramid level to
    pool them from, by the finest.

    Args:
        model: built on the meta device; its parts are replaced for good.
    """
    model.eval().requires_grad_(False)
    if model.eval_branch != "matching":
        layers_alone(model.aux_heads[model.eval_branch])
    else:
        model.postprocess = AnyDetections(model.postprocess.max_detections)
        if model.instance_mask is not None:
            pool_finest(model.instance_mask)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.grid_sampler_2d: grid})
    seen = SeenOperators()
    as_they_are = mock.patch(
        "co_detr.modeling.base_detector.detector_postprocess", lambda found, *size: found
    )
    with torch.no_grad(), as_they_are, seen, counter:
        model([{"image": torch.zeros(3, *size, device="meta")}])

    root = type(model).__name__
    called = {
        name.removeprefix(f"{root}."): sum(ops.values()) // 2  # a multiply-add is two FLOPs there
        for name, ops in counter.get_flop_counts().items()
    }
    called[""] = called.pop("Global")
    multiply_adds = {name: of_module(name, called) for name, _ in model.named_modules()}
    counted = set(flop_registry) | {torch.ops.aten.grid_sampler_2d}
    return Analysis(
        parameters={
            name: sum(p.numel() for p in module.parameters())
            for name, module in model.named_modules()
        },
        multiply_adds={name: count for name, count in multiply_adds.items() if count},
        inference_parameters=sum(
            p.numel()
            for name, p in model.named_parameters()
            if serves_inference(name, model.eval_branch)
        ),
        uncounted={
            str(op).removeprefix("aten."): values
            for op, values in seen.values.most_common()
            if op not in counted and values
        },
    )


def of_module(name: str, called: dict[str, int]) -> int:
    """The count of a module; of one that is never called as a whole, such as a list, its parts'."""
    if name in called:
        return called[name]
    inside = {other for other in called if other.startswith(f"{name}.")}
    outermost = (n for n in inside if not any(n.startswith(f"{other}.") for other in inside))
    return sum(called[n] for n in outermost)


def serves_inference(name: str, branch: str = "matching") -> bool:
    """Whether a parameter of that name takes part in inference by a branch."""
    if branch != "matching":
        return name.startswith((*BEFORE_HEADS, f"aux_heads.{branch}."))
    matching = name.startswith("query_sources.matching.")
    further_groups = name.startswith("query_sources.matching.extra.")
    return not name.startswith(TRAINING_ONLY) or (matching and not further_groups)


def grid(*shapes, out_shape, **kwargs) -> int:
    """FLOPs (two per multiply-add) of `grid_sample`, which only deformable attention uses here.

    A bilinear sample is a weighted sum of four values; the attention weight is one more.
    """
    return 2 * 5 * math.prod(out_shape)


class SeenOperators(TorchDispatchMode):
    """Adds up how many values each operator returns, apart from those that only view others."""

    def __init__(self) -> None:
        super().__init__()
        self.values: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            first = out[0] if isinstance(out, tuple | list) else out
            count = first.numel() if isinstance(first, Tensor) else 0
            self.values[func._overloadpacket] += count
        return out


def layers_alone(head: AuxHead) -> None:
    """Make inference by a head run its layers, on as many boxes as it keeps, and select nothing."""

    def inference(maps: list[Tensor], sizes: list[Size]) -> list[Instances]:
        def boxes(count: int) -> list[Boxes]:
            return [Boxes(maps[0].new_empty(count, 4)) for _ in sizes]

        if isinstance(head, DenseHead):
            head.predict(maps)
            return []
        head.rpn(maps)
        head.box_head(maps, boxes(head.rpn.post_nms_topk[1]))
        if head.mask_head is not None:
            found = boxes(head.detections_per_image)
            head.mask_head(maps, found, torch.zeros_like(Boxes.cat(found).tensor[:, 0]).long())
        return []

    for part in head.modules():
        if isinstance(getattr(part, "pooler", None), PyramidPooler):
            pool_finest(part)
    head.inference = inference
    if not isinstance(head, DenseHead):
        head.rpn.forward = head.rpn.predict  # what is called as a module is counted as one


def pool_finest(part: nn.Module) -> None:
    """Replace the pooler of a part."""
    part.pooler = FinestLevelPooler(part.pooler.output_size)


class AnyDetections(nn.Module):
    """In place of `TopKDetections`: as many detections of no particular content."""

    def __init__(self, max_detections: int) -> None:
        super().__init__()
        self.max_detections = max_detections

    def forward(self, logits: Tensor, boxes: Tensor, image_sizes: list[Size]) -> list[Instances]:
        count = min(self.max_detections, logits[0].numel())
        return [
            Instances(
                size,
                pred_boxes=BoxesWithoutValues(boxes.new_empty(count, 4)),
                scores=logits.new_empty(count),
                pred_classes=torch.empty(count, dtype=torch.int64, device=logits.device),
            )
            for size in image_sizes
        ]


class BoxesWithoutValues(Boxes):
    """Boxes on the meta device: clipping would look at their values."""

    def clip(self, box_size: Size) -> None:
        pass


class FinestLevelPooler(nn.Module):
    """In place of `PyramidPooler`: pools every box from the first of the maps."""

    def __init__(self, output_size: Size) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
        return roi_align(maps[0], [b.tensor for b in boxes], self.output_size)


def test_size(cfg: DictConfig) -> Size | None:
    """(height, width) of a wide image as the config tests it, None where it does not resize."""
    if canvas := OmegaConf.select(cfg, "model.canvas"):
        return canvas, canvas
    augmentations = OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []
    for augmentation in augmentations:
        if "short_edge_length" in augmentation:
            return augmentation.short_edge_length, augmentation.max_size
    return None


def analyze_config(cfg: DictConfig, size: Size) -> Analysis:
    """Build a config's model on the meta device and count it."""
    with torch.device("meta"):
        model = instantiate(without_pretrained(cfg.model))
    return analyze(model, size)


def module_table(analysis: Analysis, depth: int) -> str:
    """A row for each module down to a depth, with its share of the multiply-adds."""
    total = analysis.multiply_adds[""]
    rows = []
    for name, parameters in analysis.parameters.items():
        level = name.count(".") + 1 if name else 0
        count = analysis.multiply_adds.get(name)
        if level > depth or not (parameters or count):
            continue
        cells = ["-", "-"] if not count else [f"{count / 1e9:.2f}", f"{100 * count / total:.1f}%"]
        label = "  " * level + (name.rsplit(".", 1)[-1] or "model")
        rows.append([label, f"{parameters / 1e6:.2f}", *cells])
    header = ["module", "parameters (M)", "GFLOPs", "share"]
    align = ("left", "right", "right", "right")
    return tabulate(rows, header, disable_numparse=True, colalign=align, preserve_whitespace=True)


def report(analysis: Analysis, size: Size, depth: int) -> str:
    """All that is known of a model, as text."""
    uncounted = ", ".join(f"{op} {n / 1e6:.0f}" for op, n in analysis.uncounted.items() if n > 5e5)
    return "\n".join(
        [
            f"inference of one image of {size[0]}x{size[1]}",
            module_table(analysis, depth),
            f"parameters: {analysis.parameters[''] / 1e6:.2f} M, of these in inference "
            f"{analysis.inference_parameters / 1e6:.2f} M",
            f"FLOPs: {analysis.multiply_adds[''] / 1e9:.2f} G multiply-adds",
            f"not counted (millions of values returned): {uncounted}",
        ]
    )


MEASURED = ["Params (M)", "In inference (M)", "GFLOPs"]


def update_table(text: str, root: Path) -> str:
    """Measure the models that a Markdown table lists, anew.

    Args:
        text: tables with the columns "Input" (such as 800x1333) and those of `MEASURED`; the first
            cell of each row links to the config.
        root: folder that the links are relative to.

    Raises:
        ValueError: no table has those columns.
    """
    measured: dict[tuple[str, str], list[str]] = {}
    lines, columns = text.split("\n"), None
    found = False
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            columns = None
        elif set(MEASURED) <= set(cells) and "Input" in cells:
            columns, found = cells, True
        elif columns and (link := re.search(r"\((configs/[^)]+\.py)\)", cells[0])):
            row = dict(zip(columns, cells))
            cfg = LazyConfig.load(str(root / link[1]))
            size = tuple(int(side) for side in row["Input"].split("x"))
            key = (repr(OmegaConf.to_container(architecture(cfg))), row["Input"])
            if key not in measured:
                print(f"{link[1]} at {row['Input']}", file=sys.stderr)
                result = analyze_config(cfg, size)
                values = result.parameters[""], result.inference_parameters
                measured[key] = [f"{n / 1e6:.1f}" for n in values]
                flops = result.multiply_adds[""] / 1e9
                measured[key].append(f"{flops:.0f}" if flops >= 10 else f"{flops:.2f}")
            row.update(zip(MEASURED, measured[key]))
            lines[number] = "| " + " | ".join(row[column] for column in columns) + " |"
    if not found:
        raise ValueError(f"no table has the columns Input, {', '.join(MEASURED)}")
    return "\n".join(lines)


def architecture(cfg: DictConfig) -> DictConfig:
    """The model section less what changes neither parameters nor FLOPs."""
    model = without_pretrained(cfg.model)
    for key in ("backbone.drop_path_rate", "query_sources.denoising.num_queries", "criterion"):
        if OmegaConf.select(model, key) is not None:
            OmegaConf.update(model, key, None)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", help="a file, or a name of the model zoo")
    parser.add_argument("--input-size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--depth", type=int, default=2, help="of the table (default: 2)")
    parser.add_argument("--update", type=user_path, metavar="FILE", help="Markdown with a table")
    args = parse_arguments(parser)
    if (args.config_file is None) == (args.update is None):
        parser.error("give either --config-file or --update")
    if args.update is not None:
        args.update.write_text(update_table(args.update.read_text(), args.update.parent))
        return
    cfg = tool_config(args)
    size = tuple(args.input_size) if args.input_size else test_size(cfg)
    if size is None:
        parser.error(f"{args.config_file} tests at the images' own sizes: give --input-size")
    print(report(analyze_config(cfg, size), size, args.depth))


if __name__ == "__main__":
    main()
