"""Original and customized queries around an object, and their average distances (figure 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import new_figure
from .score_maps import add_boxes

ORIGINAL = "tab:red"
HEADS = {"rcnn": "tab:blue", "atss": "tab:orange"}  # as in the paper
OTHERS = ("tab:purple", "tab:cyan", "tab:pink", "tab:olive", "tab:brown")
SHOWN = 2.5  # side of what is shown around an object, in longer sides of its box


@dataclass(frozen=True, eq=False)
class ObjectQueries:
    """The queries of an object.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        box: (4,) absolute XYXY.
        original: (n, 2) positions as (x, y) in pixels of the picture.
        customized: (m, 2) likewise, by auxiliary head.
    """

    picture: np.ndarray
    box: np.ndarray
    original: np.ndarray
    customized: Mapping[str, np.ndarray]


def colors_of(heads: Sequence[str]) -> dict[str, str]:
    """A colour for each auxiliary head; those of the paper's figure where it has one."""
    others = [head for head in heads if head not in HEADS]
    return {head: HEADS.get(head) or OTHERS[others.index(head) % len(OTHERS)] for head in heads}


def draw_positions(rows: Mapping[str, Sequence[ObjectQueries]]) -> Figure:
    """An object per picture, a row per model; the picture is cut out around the object."""
    columns = max(map(len, rows.values()))
    heads = list(dict.fromkeys(h for row in rows.values() for each in row for h in each.customized))
    colors = {"original": ORIGINAL, **colors_of(heads)}
    figure = new_figure(2.6 * columns, 2.6 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, objects) in zip(grid, rows.items()):
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
        for axes, each in zip(row, objects):
            _draw_object(axes, each, colors)
        if len(rows) > 1:
            row[0].set_ylabel(label)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels())
    }
    names = [name for name in colors if name in handles]
    figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=len(names))
    return figure


def _draw_object(axes: Axes, each: ObjectQueries, colors: Mapping[str, str]) -> None:
    axes.imshow(each.picture)
    add_boxes(axes, each.box[None])
    # original queries last, on top: there is one for many of the others
    for name, points in {**each.customized, "original": each.original}.items():
        x, y = (points - 0.5).T  # pixels have their centres at whole numbers
        size = 50 if name == "original" else 14
        axes.scatter(
            x, y, s=size, color=colors[name], edgecolors="white", linewidths=0.5, label=name
        )
    left, top, right, bottom = _window(each.box, each.picture.shape[:2]) - 0.5
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _window(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A square around a box, moved into the picture of `size` (height, width): (4,) XYXY."""
    bounds = np.array(size[::-1])
    side = min(SHOWN * (box[2:] - box[:2]).max(), bounds.min())
    corner = ((box[:2] + box[2:] - side) / 2).clip(0, bounds - side)
    return np.concatenate([corner, corner + side])


def draw_distances(
    names: Sequence[str], to_positives: Sequence[float], to_negatives: Sequence[float]
) -> Figure:
    """Two bars for each head: its customized queries' distance to original positives, negatives.

    Args:
        names: of the heads.
        to_positives, to_negatives: average distances in fractions of the image.
    """
    figure = new_figure(max(4.5, 1.2 + 1.3 * len(names)), 3.6)
    axes = figure.add_subplot()
    places = np.arange(len(names))
    for shift, label, values, color in (
        (-0.2, "original positives", to_positives, ORIGINAL),
        (0.2, "original negatives", to_negatives, "0.6"),
    ):
        bars = axes.bar(places + shift, values, width=0.4, label=label, color=color)
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize="small")
    axes.set_xticks(places, names)
    axes.margins(y=0.15)
    axes.set_ylabel("distance / side of the image")
    figure.legend(title="customized queries to", loc="outside upper center", ncols=2)
    return figure
