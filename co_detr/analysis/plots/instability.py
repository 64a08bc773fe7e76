"""Curves: instability of the matching over a training."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..instability import Change
from . import new_figure


def draw_instability(curves: Mapping[str, Sequence[Change]], largest: float) -> Figure:
    """One curve per run, with a band of one standard error.

    Args:
        curves: by label.
        largest: instability if every object changed its query each time, a dotted line.
    """
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    for label, curve in curves.items():
        iterations = [change.iteration for change in curve]
        (line,) = axes.plot(iterations, [change.instability for change in curve], ".-", label=label)
        axes.fill_between(
            iterations,
            [change.instability - change.error for change in curve],
            [change.instability + change.error for change in curve],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.axhline(largest, color="gray", linestyle=":", linewidth=1)
    axes.annotate(
        "every object changes its query",
        (0, largest),
        xycoords=("axes fraction", "data"),
        xytext=(4, -4),
        textcoords="offset points",
        verticalalignment="top",
        color="gray",
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("instability: changed queries per image")
    axes.legend()
    return figure
