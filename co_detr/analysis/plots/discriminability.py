"""IoF-IoB curves (Co-DETR, figure 2)."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..discriminability import Curve
from . import new_figure


def draw_curves(panels: Sequence[tuple[str, Mapping[str, Curve]]]) -> Figure:
    """Curves side by side.

    Args:
        panels: titles, and curves by what they are called; of the same name, they have the same
            colour in all panels.
    """
    names = list(dict.fromkeys(name for _, curves in panels for name in curves))
    figure = new_figure(4.4 * len(panels), 4.4)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name, curve in curves.items():
            label = f"{name} ({curve.area:.3f})"
            line = curve.thinned()
            axes.plot(line.iob, line.iof, color=f"C{names.index(name)}", label=label)
        axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", zorder=0)
        axes.set(title=title, xlabel="IoB", ylabel="IoF", xlim=(0, 1), ylim=(0, 1), aspect=1)
        axes.legend(title="area under the curve", loc="lower right")
    return figure
