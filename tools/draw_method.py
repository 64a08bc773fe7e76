#!/usr/bin/env python
"""Draw the pictures of docs/method.md: the parts of the method, its query groups, who sees whom.

    python tools/draw_method.py --weights output/co_dino_digits/model_final.pth

The groups are those that models of the zoo make of a picture of the digits dataset, and who sees
whom is what `visibility` says of them. The weights are of co_dino_digits; they decide where its
matching queries and the proposals of its Faster R-CNN head lie.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from co_detr.arguments import user_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pages.groups import Scene
    from torch import Tensor

COLORS = {
    "matching": "tab:red",
    "one_to_many": "tab:pink",
    "group_2": "tab:pink",
    "group_3": "tab:brown",
    "denoising": "tab:green",
    "customized/rcnn": "tab:blue",
    "customized/atss": "tab:orange",
}
SMALL = ("matching.num_queries=12", "customized.max_queries=14")
MODELS = {
    "Co-Deformable-DETR, K = 2": ("co_deformable_detr/co_deformable_detr_digits", SMALL),
    "Co-DINO, K = 2": ("co_dino/co_dino_digits", (*SMALL, "denoising.num_queries=9")),
    "Co-H-Deformable-DETR, K = 2": (
        "h_deformable_detr/co_h_deformable_detr_digits",
        (*SMALL, "matching.num_one_to_many=24"),
    ),
    "Group DETR, 3 groups": (
        "co_deformable_detr/group_deformable_detr_digits",
        ("matching.num_queries=12",),
    ),
}
DOTS_PER_INCH = 90
# from left to right and top to bottom: name, x, y, whether inference has it
PARTS = {
    "backbone": ("backbone,\nneck", 0, 2, True),
    "encoder": ("encoder", 1, 2, True),
    "proposals": ("proposals", 2, 2, True),
    "pyramid": ("pyramid", 1, 1, False),
    "heads": ("K auxiliary\nheads", 2, 1, False),
    "matching": ("matching\nqueries", 3, 2, True),
    "customized": ("customized\nqueries", 3, 1, False),
    "denoising": ("denoising\nqueries", 3, 0, False),
    "truth": ("ground truth", 2, 0, False),
    "decoder": ("decoder,\none pass", 4, 2, True),
    "criterion": ("losses", 5, 1, False),
    "postprocess": ("detections", 5, 2, True),
}
ARROWS = (
    ("backbone", "encoder"),
    ("encoder", "proposals"),
    ("encoder", "pyramid"),
    ("pyramid", "heads"),
    ("truth", "heads"),
    ("proposals", "matching"),
    ("heads", "customized"),
    ("truth", "denoising"),
    ("matching", "decoder"),
    ("customized", "decoder"),
    ("denoising", "decoder"),
    ("decoder", "criterion"),
    ("decoder", "postprocess"),
)


def draw_parts() -> "Figure":
    """The forward pass as boxes and arrows; what inference has is filled."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(9.2, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, x, y, stays in PARTS.values():
        box = FancyBboxPatch(
            (1.6 * x - 0.55, y - 0.3),
            1.1,
            0.6,
            boxstyle="round,pad=0.02",
            facecolor="#c9d6f0" if stays else "white",
            edgecolor="black",
            linestyle="-" if stays else "--",
        )
        axes.add_patch(box)
        axes.text(1.6 * x, y, name, ha="center", va="center", fontsize=10)
    for start, end in ARROWS:
        (_, x0, y0, _), (_, x1, y1, _) = PARTS[start], PARTS[end]
        if x0 == x1:
            tail, head = (1.6 * x0, y0 - 0.32), (1.6 * x1, y1 + 0.32)
            if y0 < y1:
                tail, head = (1.6 * x0, y0 + 0.32), (1.6 * x1, y1 - 0.32)
        else:
            tail, head = (1.6 * x0 + 0.57, y0), (1.6 * x1 - 0.57, y1 - 0.12 * (y1 - y0))
        axes.annotate("", head, tail, arrowprops={"arrowstyle": "->", "lw": 1.2})
    axes.set(xlim=(-0.7, 8.7), ylim=(-0.45, 2.45))
    axes.set_axis_off()
    return figure


def draw_visibility(scenes: Mapping[str, "Scene"]) -> "Figure":
    """For each model, which queries (columns) a query (row) sees, in the colour of its group."""
    import numpy as np
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from pages.groups import seen

    figure = Figure(figsize=(9.2, 9.6), layout="constrained")
    for axes, (label, scene) in zip(figure.subplots(2, 2).flat, scenes.items()):
        groups = scene.groups
        matrix = seen(groups)
        colors = np.concatenate(
            [np.tile(to_rgb(COLORS[group.name]), (group.num_queries, 1)) for group in groups]
        )
        axes.imshow(np.where(matrix[..., None], colors[:, None], 1.0), interpolation="nearest")
        ends = np.cumsum([group.num_queries for group in groups])
        for end in ends[:-1]:
            axes.axhline(end - 0.5, color="0.6", linewidth=0.6)
            axes.axvline(end - 0.5, color="0.6", linewidth=0.6)
        middles = ends - np.array([group.num_queries for group in groups]) / 2 - 0.5
        names = [f"{group.name}\n{group.num_queries}" for group in groups]
        axes.set_yticks(middles, names, fontsize=8)
        axes.set_xticks(middles, names, fontsize=8, rotation=45, ha="right")
        axes.tick_params(length=0)
        axes.set_title(label, fontsize=10)
    figure.supylabel("a query of ...", fontsize=10)
    figure.supxlabel("... sees those of", fontsize=10)
    return figure


def draw_queries(scene: "Scene") -> "Figure":
    """The boxes that the queries of each group start from, on the picture."""
    from matplotlib.figure import Figure

    panels = ["objects", *(group.name for group in scene.groups)]
    figure = Figure(figsize=(9.2, 6.6), layout="constrained")
    grid = list(figure.subplots(2, 3).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, name in zip(grid, panels):
        axes.imshow(scene.picture)
        if name == "objects":
            _add_boxes(axes, scene.boxes, scene, color="white", linewidth=1.6)
            axes.set_title(f"{len(scene.boxes)} objects", fontsize=10)
            continue
        (group,) = (group for group in scene.groups if group.name == name)
        reference, color = group.reference[0], COLORS[name]
        if name == "denoising":  # one block: lightly, then heavily disturbed
            half = len(scene.boxes)
            _add_boxes(axes, reference[:half], scene, color=color, linewidth=1.4)
            _add_boxes(axes, reference[half : 2 * half], scene, color="white", linestyle=":")
            title = f"denoising: {group.num_queries},\na block of {2 * half} drawn"
        elif name == "matching":
            _add_boxes(axes, reference, scene, color=color, linewidth=0.6)
            title = f"matching: {group.num_queries}"
        else:
            positive = group.targets.classes[0] < scene.num_classes
            _add_boxes(axes, reference[positive], scene, color=color, linewidth=0.7)
            title = f"{name}: {int(positive.sum())} positives\nof {group.num_queries} queries"
        axes.set_title(title, fontsize=10)
        height, width = scene.picture.shape[:2]
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure


def _add_boxes(axes: "Axes", boxes: "Tensor", scene: "Scene", **style) -> None:
    from matplotlib.patches import Rectangle

    height, width = scene.picture.shape[:2]
    for x, y, w, h in boxes.tolist():
        corner = ((x - w / 2) * width - 0.5, (y - h / 2) * height - 0.5)
        axes.add_patch(Rectangle(corner, w * width, h * height, fill=False, **style))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=user_path, required=True, help="of co_dino_digits")
    parser.add_argument("--image-id", type=int, default=9, help="of the picture; %(default)s")
    parser.add_argument(
        "--output", type=user_path, default=Path("docs/images"), help="a folder; %(default)s"
    )
    args = parser.parse_args(argv)

    from pages.groups import scene_of

    scenes = {
        label: scene_of(config, args.image_id, [f"model.query_sources.{word}" for word in words])
        for label, (config, words) in MODELS.items()
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, figure in {
        "method-parts": draw_parts(),
        "method-visibility": draw_visibility(scenes),
        "method-queries": draw_queries(
            scene_of("co_dino/co_dino_digits", args.image_id, weights=str(args.weights))
        ),
    }.items():
        path = args.output / f"{name}.png"
        figure.savefig(path, dpi=DOTS_PER_INCH)
        print(path)


if __name__ == "__main__":
    main()
