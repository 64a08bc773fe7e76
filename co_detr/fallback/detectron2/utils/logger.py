"""Loggers of a run: coloured on the terminal, plain in one file for each process."""

import copy
import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Collection
from types import FrameType
from typing import TextIO

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

__all__ = ["create_small_table", "log_every_n_seconds", "log_first_n", "setup_logger"]

_LEVEL_COLORS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _Formatter(logging.Formatter):
    """Writes the level of warnings and errors, and shortens the name of the root of a logger."""

    def __init__(self, color: bool, name: str, abbrev_name: str):
        self._paint = colored if color else (lambda text, *args, **kwargs: text)
        where = "[%(asctime)s %(name)s]: "
        super().__init__(self._paint(where, "green") + "%(message)s", "%m/%d %H:%M:%S")
        self._name, self._abbrev_name = name, abbrev_name

    def formatMessage(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)  # other handlers see the record too
        if record.name == self._name or record.name.startswith(self._name + "."):
            record.name = (self._abbrev_name + record.name[len(self._name) :]).lstrip(".")
        text = super().formatMessage(record)
        if record.levelno in _LEVEL_COLORS:
            text = self._paint(record.levelname, _LEVEL_COLORS[record.levelno]) + " " + text
        return text


class _StdoutHandler(logging.StreamHandler):
    """Writes to whatever `sys.stdout` is at the time of a message."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


class _FileHandler(logging.StreamHandler):
    """Appends to a file that may be anywhere PathManager can write."""

    def __init__(self, path: str):
        super().__init__(_log_stream(path))
        self.path = path


@functools.cache
def _log_stream(path: str) -> TextIO:
    """Return the one open stream of a log file, which several loggers may share."""
    PathManager.mkdirs(os.path.dirname(path) or ".")
    return PathManager.open(path, "a")


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Let a logger and its children print (on rank 0) and append to a file (on every rank).

    Calling it again adds only what is missing, so no message appears twice.

    Args:
        output: a file if it ends in .txt or .log, else a folder for log.txt; None writes no file.
            Ranks other than 0 append ".rank<n>" to the file name.
        distributed_rank: rank of this process.
        color: colours on the terminal; files have none.
        name: of the logger; it no longer propagates to its parent.
        abbrev_name: what messages show instead of `name`; "d2" for "detectron2".

    Returns:
        logging.Logger: the logger, at level DEBUG.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name

    def add(handler: logging.Handler, color: bool) -> None:
        handler.setLevel(logging.DEBUG)
        handler.setFormatter(_Formatter(color, name, abbrev_name))
        logger.addHandler(handler)

    if distributed_rank == 0 and not any(isinstance(h, _StdoutHandler) for h in logger.handlers):
        add(_StdoutHandler(), color)
    if output is not None:
        is_file = output.endswith((".txt", ".log"))
        path = output if is_file else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path += f".rank{distributed_rank}"
        if not any(getattr(h, "path", None) == path for h in logger.handlers):
            add(_FileHandler(path), color=False)
    return logger


def _caller() -> tuple[str, tuple]:
    """Return the module and the place of the nearest call from outside of this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return ("detectron2" if module == "__main__" else module), place


_times_logged: Counter = Counter()
_last_logged: dict[tuple, float] = {}


def log_first_n(
    lvl: int,
    msg: str,
    n: int = 1,
    *,
    name: str | None = None,
    key: str | Collection[str] = "caller",
) -> None:
    """Log a message unless it was logged `n` times already.

    Args:
        lvl: level of the message.
        msg: the message.
        n: how often at most.
        name: of the logger; None for that of the calling module.
        key: what counts as the same message: "caller" (the calling line), "message", or both.
    """
    module, place = _caller()
    parts = (key,) if isinstance(key, str) else tuple(key)
    identity = (place if "caller" in parts else None, msg if "message" in parts else None)
    _times_logged[identity] += 1
    if _times_logged[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log a message unless the calling line did so less than `n` seconds ago."""
    module, place = _caller()
    now = time.monotonic()
    if place not in _last_logged or now - _last_logged[place] >= n:
        _last_logged[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: dict[str, float]) -> str:
    """Return a markdown table of one row with three decimals; for a handful of numbers."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
