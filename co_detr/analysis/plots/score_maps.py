"""Score maps beside the pictures they belong to (Co-DETR, figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import new_figure

GREEN = "lime"  # of objects' boxes, as in the paper


@dataclass(frozen=True, eq=False)
class ScoredPicture:
    """A picture, its objects, and its score maps by model.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        boxes: (n, 4) absolute XYXY.
        scores: (h, w) each; of any size, as models may resize a picture differently.
    """

    picture: np.ndarray
    boxes: np.ndarray
    scores: dict[str, np.ndarray]


def draw_score_maps(pictures: Sequence[ScoredPicture]) -> Figure:
    """A row per picture: itself with the boxes of its objects, then a map per model.

    Each map's colours go from its own lowest to its own highest score: it is the order of scores
    that tells objects from background.
    """
    columns = 1 + max(len(each.scores) for each in pictures)
    figure = new_figure(2.2 * columns, 2.2 * len(pictures) + 0.3)
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, each in zip(grid, pictures):
        row[0].imshow(each.picture)
        add_boxes(row[0], each.boxes)
        for axes, scores in zip(row[1:], each.scores.values()):
            axes.imshow(scores, cmap="jet")
    for axes, name in zip(grid[0], ["picture", *pictures[0].scores]):
        axes.set_title(name, fontsize="medium")
    return figure


def add_boxes(axes: Axes, boxes: np.ndarray) -> None:
    """Draw boxes (n, 4) absolute XYXY on a picture."""
    for left, top, right, bottom in boxes - 0.5:  # pixels have their centres at whole numbers
        size = right - left, bottom - top
        axes.add_patch(Rectangle((left, top), *size, fill=False, color=GREEN, linewidth=1.5))
