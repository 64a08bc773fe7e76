"""Tables of results: as Markdown, as CSV, and as a plot of AP over iterations."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from .results import Estimate, Result, difference, estimate, verdict
from .tables import DataSet, Row, Section, Table

PUBLISHED = "published (COCO)"
UNKNOWN = Estimate(math.nan, math.nan)


@dataclass(frozen=True)
class Line:
    """A row of a table with what was measured for it.

    Attributes:
        row: of the paper's table.
        iterations: length of its trainings.
        results: of the seeds that are complete.
        base: whether the others of its section are compared with it.
        to_base: the difference of AP to the base; unknown for the base and where either is.
    """

    row: Row
    iterations: int
    results: Sequence[Result]
    base: bool
    to_base: Estimate

    def metric(self, name: str) -> Estimate:
        """One of COCO's results at the end."""
        return estimate([result.metrics.get(name, math.nan) for result in self.results])

    @property
    def seconds(self) -> Estimate:
        return estimate([result.seconds for result in self.results])

    @property
    def memory(self) -> Estimate:
        return estimate([result.memory for result in self.results])

    @property
    def verdict(self) -> str:
        """Of the difference to the base; "" where there is nothing to compare."""
        return "" if math.isnan(self.to_base.mean) else verdict(self.to_base)


def compare(
    table: Table,
    dataset: DataSet,
    results: Mapping[Row, Sequence[Result]],
    iterations: Mapping[Row, int],
) -> list[tuple[Section, list[Line]]]:
    """Put together what was measured, section by section.

    Args:
        table: of the paper.
        dataset: whose rows are wanted.
        results: for each row those of its complete seeds.
        iterations: for each row the length of its trainings.
    """
    sections = []
    for section, rows in table.sections_on(dataset.name):
        base = section.rows[section.base]
        of_base = estimate([result.metrics["AP"] for result in results.get(base, ())])
        lines = []
        for row in rows:
            found = estimate([result.metrics["AP"] for result in results[row]])
            to_base = UNKNOWN if row is base else difference(found, of_base)
            lines.append(Line(row, iterations[row], results[row], row is base, to_base))
        sections.append((section, lines))
    return sections


def labels_of(table: Table, dataset: DataSet) -> list[str]:
    """Headers of the label columns."""
    if dataset.epochs:
        return list(table.labels)
    return ["iterations" if name == "epochs" else name for name in table.labels]


def label_cells(table: Table, dataset: DataSet, line: Line) -> list[str | int | float]:
    """What the label columns say of a row."""
    return [
        line.iterations if name == "epochs" and not dataset.epochs else label
        for name, label in zip(table.labels, line.row.labels)
    ]


def markdown(table: Table, dataset: DataSet, lines: Sequence[Line], command: str) -> str:
    """A table with heading, notes and the command that made it."""
    headers = [*labels_of(table, dataset), "seeds", *table.metrics, "difference", "verdict"]
    if table.costs:
        headers += ["memory (MiB)", "time (s / iteration)"]
    figures = f": {' / '.join(table.published)}" if len(table.published) > 1 else ""
    headers.append(PUBLISHED + figures)
    rows = []
    for line in lines:
        cells = [*label_cells(table, dataset, line), len(line.results)]
        cells += [plus_minus(line.metric(name)) for name in table.metrics]
        cells += ["base", ""] if line.base else [plus_minus(line.to_base, "+"), line.verdict]
        if table.costs:
            cells += [number(line.memory.mean, ".0f"), number(line.seconds.mean, ".3f")]
        cells.append(" / ".join("-" if x is None else str(x) for x in line.row.published))
        rows.append(cells)
    return "\n".join(
        [
            f"### Table {table.number}: {table.title}",
            "",
            f"On {dataset.name}; `{command}`",
            "",
            *(["".join([across(table, dataset, lines), "\n"])] if table.across else []),
            tabulate(rows, headers, tablefmt="github", disable_numparse=True),
            "",
            *(f"- {note}" for note in notes(table)),
            "",
        ]
    )


def across(table: Table, dataset: DataSet, lines: Sequence[Line]) -> str:
    """The AP alone, with the values of one label side by side."""
    place = table.labels.index(table.across)
    columns = list(dict.fromkeys(line.row.labels[place] for line in lines))
    grid: dict[tuple, dict] = {}
    for line in lines:
        labels = label_cells(table, dataset, line)
        column = labels.pop(place)
        cell = plus_minus(line.metric("AP"))
        if line.verdict:
            cell += f" ({plus_minus(line.to_base, '+')}, {line.verdict})"
        grid.setdefault(tuple(labels), {})[column] = cell
    names = labels_of(table, dataset)
    headers = [name for name in names if name != table.across]
    headers += [f"{table.across} = {column}" for column in columns]
    rows = [[*labels, *(cells.get(c, "") for c in columns)] for labels, cells in grid.items()]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def notes(table: Table) -> list[str]:
    """What one must know to read a table."""
    return [
        "Mean ± standard error over the seeds, at the end of training. Differences are to the base "
        "of the part of the table, with their standard error; within two of these they are "
        "undecided.",
        f"{PUBLISHED}: from the paper, on COCO val with the full-size model.",
        *table.notes,
    ]


def write_csv(
    path: Path, table: Table, dataset: DataSet, lines: Sequence[Line], digits: int = 4
) -> None:
    """Write a table with a column for each number; what is not known is empty.

    Args:
        path: of the file.
        table, dataset, lines: as for `markdown`.
        digits: behind the point.
    """

    def both(name: str, value: Estimate) -> dict[str, object]:
        return {name: value.mean, f"{name} standard error": value.error}

    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = None
        for line in lines:
            cells: dict[str, object] = dict(
                zip(labels_of(table, dataset), label_cells(table, dataset, line))
            )
            cells["seeds"] = len(line.results)
            for name in table.metrics:
                cells |= both(name, line.metric(name))
            cells |= both("difference", line.to_base)
            cells["verdict"] = "base" if line.base else line.verdict
            if table.costs:
                cells |= {"memory (MiB)": line.memory.mean, "seconds": line.seconds.mean}
            cells |= {f"{PUBLISHED} {n}": x for n, x in zip(table.published, line.row.published)}
            if writer is None:
                writer = csv.DictWriter(file, list(cells))
                writer.writeheader()
            writer.writerow({name: _rounded(value, digits) for name, value in cells.items()})


def _rounded(value: object, digits: int) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else round(value, digits)


def number(value: float, form: str) -> str:
    """A number, "-" for nan."""
    return "-" if math.isnan(value) else format(value, form)


def plus_minus(value: Estimate, sign: str = "") -> str:
    """ "46.8 ± 0.3"; without what is not known. `sign` "+" writes that of positive numbers, too."""
    if math.isnan(value.error):
        return number(value.mean, f"{sign}.1f")
    return f"{value.mean:{sign}.1f} ± {value.error:.1f}"
