"""Curves and matrices as SVG to be put into a page."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

RECALLS = np.linspace(0, 1, 101)
MOST_COLOURS = 10  # lines that can be told apart
MOST_CLASSES = 20  # of a matrix that can be read
STYLE: dict[Any, Any] = {  # the type of keys changed with matplotlib 3.11
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # what sizes are reckoned by
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "co-detr",  # the same page from the same numbers
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a3",
    "axes.labelcolor": "#3c4654",
    "xtick.color": "#3c4654",
    "ytick.color": "#3c4654",
    "axes.grid": True,
    "grid.color": "#e6e9ee",
    "legend.frameon": False,
}


def svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element as wide as there is room; `label` is for who cannot see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([^;\"]*)'DejaVu Sans'[^;\"]*", r"font: \1inherit-sans, sans-serif", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def precision_recall(
    by_iou: np.ndarray, by_class: np.ndarray, names: Sequence[str]
) -> tuple[str, str]:
    """Curves at several IoU thresholds, and of each class.

    Args:
        by_iou: (10, 101) for IoU 0.5, 0.55, ..., 0.95.
        by_class: (K, 101) at IoU 0.5.
        names: of the classes.
    """
    with rc_context(STYLE):
        first = _square()
        axes = _unit_axes(first, "recall", "precision")
        for index in range(0, 10, 2):
            shade = f"#{_blend('1f5fa8', 'b9d3ee', index / 8)}"
            axes.plot(RECALLS, by_iou[index], color=shade, label=f"{0.5 + index / 20:.1f}")
        axes.legend(title="IoU", loc="best")
        second = _square()
        axes = _unit_axes(second, "recall", "precision")
        few = len(names) <= MOST_COLOURS
        lines = []
        for index, curve in enumerate(by_class):
            colour = f"C{index}" if few else "#9db4cf"
            lines += axes.plot(RECALLS, curve, color=colour, linewidth=1.3 if few else 0.6)
        if few:
            # texts are set afterwards, as a label "_bg" would leave its line out
            legend = axes.legend(lines, "x" * len(lines), loc="best", ncols=2)
            for text, name in zip(legend.get_texts(), names):
                text.set_text(plain(name))
        else:
            axes.plot(RECALLS, by_iou[0], color="#1f5fa8", linewidth=2, label="mean")
            axes.legend(loc="best")
        return (
            svg(first, "Precision over recall at IoU 0.5 to 0.9"),
            svg(second, "Precision over recall of each class at IoU 0.5"),
        )


def reliability(bins: Sequence[dict[str, Any]]) -> str:
    """How often detections of a score are right, and how many there are."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        width = bins[0]["bin_upper"] - bins[0]["bin_lower"] if bins else 0.1
        left = [b["bin_lower"] for b in bins]
        style = {"width": width * 0.94, "align": "edge"}
        axes.bar(left, [b["avg_accuracy"] for b in bins], color="#1f5fa8", **style)
        axes.plot([0, 1], [0, 1], color="#c2571a", linestyle="--", linewidth=1.2)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        below.bar(left, [b["count"] for b in bins], color="#9db4cf", **style)
        below.set(xlabel="score", ylabel="detections", yscale="symlog")
        below.yaxis.set_major_locator(_few_decades(max((b["count"] for b in bins), default=0)))
        return svg(figure, "Share of right detections over their score")


def confusion(matrix: np.ndarray, names: Sequence[str]) -> tuple[str, int]:
    """The matrix of the classes that are confused most, rows in shares; and how many classes it
    shows.

    Args:
        matrix: (K + 1, K + 1) counts, the last of both being nothing.
        names: of the K classes.
    """
    off = matrix - np.diag(matrix.diagonal())
    wrong = (off.sum(0) + off.sum(1))[:-1]
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
    index = np.append(chosen, len(names))
    counts = matrix[np.ix_(index, index)]
    shares = counts / np.maximum(matrix[index].sum(1, keepdims=True), 1)
    with rc_context(STYLE):
        side = 2 + 0.42 * len(index)
        figure = Figure(figsize=(side + 0.4, side), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[i, j] > 0.55 else "#26303d"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
        shown = [*(plain(names[i]) for i in chosen), "(nothing)"]
        ticks = range(len(index))
        axes.set_xticks(ticks, shown, rotation=45, ha="right")
        axes.set_yticks(ticks, shown)
        axes.set(xlabel="detected as", ylabel="labelled as")
        return svg(figure, "Confusion matrix"), len(chosen)


def plain(name: str) -> str:
    """A name as matplotlib shows it as it is: what stands between two "$" is a formula to it."""
    return name.replace("$", r"\$")


def _square() -> Figure:
    return Figure(figsize=(4.2, 4.2), layout="constrained")


def _unit_axes(figure: Figure, across: str, up: str) -> Any:
    axes = figure.add_subplot()
    axes.set(xlabel=across, ylabel=up, xlim=(0, 1.005), ylim=(0, 1.02))
    return axes


def _few_decades(most: int) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator([0, *(10**k for k in range(1, 9, 2) if 10**k <= max(most, 10))])


def _blend(first: str, second: str, share: float) -> str:
    pairs = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (0, 2, 4)]
    return "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
