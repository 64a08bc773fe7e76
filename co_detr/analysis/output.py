"""Figures and their numbers as files."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from co_detr.engine.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150  # of PNG files


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture and the numbers in it.

    Attributes:
        name: of the files, without suffix.
        figure: the picture.
        columns: names of the numbers.
        rows: of the table, as many values each as there are columns.
    """

    name: str
    figure: "Figure"
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def save(drawing: Drawing, folder: Path, suffix: str) -> list[Path]:
    """Write a drawing as <name>.<suffix> ("png" or "svg") and <name>.csv; returns both paths.

    Each file takes its name when it is complete, and replaces one that is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture, table = (folder / f"{drawing.name}.{end}" for end in (suffix, "csv"))
    with whole_file(str(picture), "wb") as file:
        drawing.figure.savefig(file, format=suffix, dpi=DOTS_PER_INCH)
    with whole_file(str(table)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(drawing.columns)
        writer.writerows([_text(value) for value in row] for row in drawing.rows)
    return [picture, table]


def _text(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
