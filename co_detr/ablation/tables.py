"""What a table of the paper is: rows of labels, each with a model to train and published figures.

A table is one for all data sets: each row names its model on COCO, with the full-size configs, and
on digits, with the miniatures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

DIGITS_ITERATIONS = 300  # of a training on digits, whatever the epochs on COCO


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of trained weights that differs from the one at the end of the training.

    Attributes:
        name: of its folder, below that of the run.
        overrides: changes of the config.
    """

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """What is trained for a row, and what of it is evaluated.

    Attributes:
        config: name in the model zoo.
        overrides: changes of the config, as "key=value".
        evaluation: None for the one at the end of the training.
    """

    config: str
    overrides: tuple[str, ...] = ()
    evaluation: Evaluation | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table.

    Attributes:
        labels: one for each of `Table.labels`.
        published: one figure for each of `Table.published`, None where there is none.
        models: by the name of the data set; a row without one is left out there.
    """

    labels: tuple[str | int | float, ...]
    published: tuple[float | None, ...]
    models: dict[str, Model]


@dataclass(frozen=True)
class Section:
    """Rows that are compared with one of them, the base.

    Attributes:
        title: what they have in common, for the plot.
        rows: in the order of the paper.
        base: index of the row that differences are to.
    """

    title: str
    rows: tuple[Row, ...]
    base: int = 0


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: in the paper.
        title: in our words.
        labels: names of the columns that tell rows apart. "epochs" are those on COCO; on other data
            sets the column gives the number of iterations instead.
        sections: its rows.
        published: names of the published figures.
        metrics: names of COCO's results that are reported, AP first.
        costs: whether memory and time of the training are reported.
        across: name of the label that a compact form of the table has its columns for, or "".
        notes: what one must know to read it.
    """

    number: int
    title: str
    labels: tuple[str, ...]
    sections: tuple[Section, ...]
    published: tuple[str, ...] = ("AP",)
    metrics: tuple[str, ...] = ("AP", "AP50", "AP75")
    costs: bool = False
    across: str = ""
    notes: tuple[str, ...] = ()

    def sections_on(self, dataset: str) -> Iterator[tuple[Section, list[Row]]]:
        """Each section with its rows that have a model on a data set; none without any."""
        for section in self.sections:
            if rows := [row for row in section.rows if dataset in row.models]:
                yield section, rows

    def rows_on(self, dataset: str) -> list[Row]:
        """The rows that have a model on a data set."""
        return [row for _, rows in self.sections_on(dataset) for row in rows]


@dataclass(frozen=True)
class DataSet:
    """What all runs on a data set share.

    Attributes:
        name: as in `Row.models`.
        overrides: changes of every config.
        schedules: further ones for configs whose name begins with the key.
        epochs: whether the label "epochs" holds there.
    """

    name: str
    overrides: tuple[str, ...]
    schedules: dict[str, tuple[str, ...]]
    epochs: bool

    def shared(self, config: str) -> tuple[str, ...]:
        """The changes of one config, in the order in which they are made."""
        special = (
            changes for prefix, changes in self.schedules.items() if config.startswith(prefix)
        )
        return self.overrides + sum(special, ())
