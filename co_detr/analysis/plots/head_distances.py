"""A matrix of distances between heads, and bars of average distances of models."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.figure import Figure
from torch import Tensor

from . import new_figure


def draw_matrix(heads: Sequence[str], matrix: Tensor, title: str) -> Figure:
    """Distances as colours and numbers (paper, figures 8 and 9).

    Args:
        heads: names of the rows and columns.
        matrix: (n, n); the row is the head whose map comes first in the divergence.
    """
    side = 2.2 + 0.7 * len(heads)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot(title=title)
    image = axes.imshow(matrix, cmap="Blues", vmin=0)
    axes.set_xticks(range(len(heads)), heads, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(heads)), heads)
    dark = matrix.max() * 0.5
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            color = "white" if value > dark else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    figure.colorbar(image, shrink=0.8, label="KL divergence of row from column, nats")
    return figure


def draw_averages(averages: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar per model, the mean over its auxiliary heads, and a dot for each (paper, figure 6).

    Args:
        averages: by model, average distance by head.
    """
    figure = new_figure(6, 1.2 + 0.5 * len(averages))
    axes = figure.add_subplot()
    means = [mean(of_heads.values()) for of_heads in averages.values()]
    bars = axes.barh(list(averages), means, color="lightsteelblue")
    axes.bar_label(bars, fmt="%.2f", label_type="center")
    for row, of_heads in enumerate(averages.values()):
        axes.plot(list(of_heads.values()), [row] * len(of_heads), "o", color="navy")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("average distance of auxiliary heads (dots) and mean, nats")
    return figure
