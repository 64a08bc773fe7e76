"""AP over the iterations of training, with the spread over seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path

try:
    from matplotlib.figure import Figure
except ImportError as error:  # before anything is trained
    raise ImportError("drawing tables needs matplotlib: pip install matplotlib") from error

from .report import Line, label_cells, labels_of
from .tables import DataSet, Section, Table

COLUMNS = 3  # of axes


def curve_of(line: Line) -> tuple[list[int], list[float], list[float], list[float]]:
    """Iterations at which every seed was evaluated, and there the mean, lowest and highest AP."""
    curves = [result.curve for result in line.results]
    iterations = sorted(set.intersection(*map(set, curves))) if curves else []
    values = [[curve[iteration] for curve in curves] for iteration in iterations]
    return (
        iterations,
        [statistics.fmean(v) for v in values],
        [min(v) for v in values],
        [max(v) for v in values],
    )


def plot(
    path: Path,
    table: Table,
    dataset: DataSet,
    sections: Sequence[tuple[Section, Sequence[Line]]],
) -> None:
    """Draw the means of every section into axes of its own, and bands from the lowest to the
    highest seed. Rows that are an evaluation of their own have no course to be drawn.

    Args:
        path: of the picture.
        table, dataset: whose rows these are.
        sections: with what was measured.
    """
    drawn = []
    for section, lines in sections:
        own = [x for x in lines if x.results and x.row.models[dataset.name].evaluation is None]
        if own:
            drawn.append((section, own))
    columns = min(COLUMNS, max(len(drawn), 1))
    rows = max(-(-len(drawn) // columns), 1)
    figure = Figure(figsize=(5.5 * columns, 4.2 * rows), layout="constrained")
    figure.suptitle(f"Table {table.number} on {dataset.name}: {table.title}")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[len(drawn) :]:
        ax.set_axis_off()
    for ax, (section, lines) in zip(axes, drawn):
        # only the labels that tell the curves apart
        cells = [label_cells(table, dataset, line) for line in lines]
        telling = [len(set(column)) > 1 for column in zip(*cells)]
        for line, labels in zip(lines, cells):
            iterations, mean, lowest, highest = curve_of(line)
            name = ", ".join(
                str(label) if isinstance(label, str) else f"{title} = {label}"
                for title, label, tells in zip(labels_of(table, dataset), labels, telling)
                if tells
            )
            (drawing,) = ax.plot(iterations, mean, marker=".", label=name or section.title)
            ax.fill_between(iterations, lowest, highest, color=drawing.get_color(), alpha=0.15)
        ax.set(title=section.title, xlabel="iterations", ylabel="AP")
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    figure.savefig(path, dpi=120)
