"""The metrics.json of a run, as detectron2's `JSONWriter` writes it: a row, an object, per line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import whole_file


def read_rows(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The rows of a file, which may be absent, but for what is none: a line that is being written,
    or was when the run was killed."""
    return (row for _, row in _lines(path))


def is_evaluated(path: str | os.PathLike, iterations: int) -> bool:
    """Whether a file holds the evaluation at the end of so many iterations."""
    return any(row["iteration"] >= iterations for row in read_rows(path))


def forget_rows_from(path: str, start_iter: int) -> None:
    """Remove what a resumed run is about to log again: the training rows from `start_iter` on, and
    lines that are no rows.

    Args:
        path: of the file; may be absent.
        start_iter: the iteration the run continues with.
    """
    if not os.path.isfile(path):
        return
    kept = "".join(
        f"{line}\n"
        for line, row in _lines(path)
        if row["iteration"] < start_iter or "total_loss" not in row
    ).encode()
    if kept != Path(path).read_bytes():
        with whole_file(path, "wb") as file:
            file.write(kept)


def _lines(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines that are rows, and what they say."""
    if not os.path.isfile(path):
        return
    for line in Path(path).read_bytes().splitlines():
        try:
            text = line.decode()
            row = json.loads(text)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            yield text, row
