"""Bars: positives per object of each auxiliary head."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from . import new_figure


def draw_positives(heads: Sequence[str], per_object: Sequence[float]) -> Figure:
    """One bar per head, with its number behind it.

    Args:
        heads: what the bars are called, from top to bottom.
        per_object: how long they are.
    """
    figure = new_figure(6, 1.2 + 0.35 * len(heads))
    axes = figure.add_subplot()
    bars = axes.barh(heads, per_object)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("positive samples per object")
    return figure
