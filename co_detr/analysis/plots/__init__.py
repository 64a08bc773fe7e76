"""From numbers to pictures: `matplotlib` figures, made without its global state."""

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("drawing figures needs matplotlib: pip install matplotlib") from error


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, whose parts do not overlap."""
    return Figure(figsize=(width, height), layout="constrained")
