"""Scalars of a training run: an `EventStorage` collects them, writers publish them."""

import datetime
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
]

_storages: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Return the innermost storage in use.

    Raises:
        AssertionError: outside of any `with EventStorage()`.
    """
    assert _storages, "there is no event storage; run this code inside `with EventStorage():`"
    return _storages[-1]


class EventStorage:
    """The history of named scalars over the iterations of a run.

    Entering the storage as a context makes it the one `get_event_storage` returns.

    Args:
        start_iter: iteration to begin with.
    """

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smoothing_hints: dict[str, bool] = {}
        self._prefix = ""
        self._vis_data: list[tuple[str, torch.Tensor, int]] = []

    def put_scalar(
        self, name: str, value, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Record a number.

        Args:
            name: prefixed by the current name scope.
            value: anything `float` takes.
            smoothing_hint: whether writers should show a median of recent values instead of the
                last one (for noisy numbers); cannot change for a name.
            cur_iter: iteration the value belongs to; None for the current one.
        """
        name = self._prefix + name
        previous = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert previous == smoothing_hint, f"scalar {name!r} was put with another smoothing_hint"
        value, cur_iter = float(value), self.iter if cur_iter is None else cur_iter
        self._history[name].update(value, cur_iter)
        self._latest[name] = (value, cur_iter)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **scalars
    ) -> None:
        """Record several numbers, given by keyword."""
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint, cur_iter)

    def put_image(self, img_name: str, img_tensor) -> None:
        """Keep a picture for the writers that show some, until `clear_images`.

        Args:
            img_name: its name there.
            img_tensor: (C, H, W), uint8, or floats in [0, 1]; RGB.
        """
        self._vis_data.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Let go of all pictures."""
        self._vis_data = []

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of a scalar.

        Raises:
            KeyError: if it was never put.
        """
        if name not in self._history:
            raise KeyError(f"no scalar {name!r} was put; there are {sorted(self._history)}")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return the values of all scalars."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return {name: (last value, its iteration)}."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like `latest`, with medians over the last `window_size` iterations where hinted."""
        return {
            name: (
                (
                    self._history[name].median(self.count_samples(name, window_size))
                    if self._smoothing_hints[name]
                    else value
                ),
                iteration,
            )
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Return how many values of a scalar fall into its last `window_size` iterations."""
        values = self.history(name).values()
        first = values[-1][1] - window_size
        return sum(iteration > first for _, iteration in values[-window_size:])

    def smoothing_hints(self) -> Mapping[str, bool]:
        """Return {name: whether to smooth}."""
        return self._smoothing_hints

    def step(self) -> None:
        """Go on to the next iteration."""
        self.iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names put within the context by "<name>/"."""
        previous, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = previous

    def __enter__(self) -> "EventStorage":
        _storages.append(self)
        return self

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        _storages.pop()


class EventWriter:
    """Publishes what the current event storage holds; base class."""

    def write(self) -> None:
        """Publish what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files."""


class _New:
    """Picks the values of a storage that were put after the last time."""

    def __init__(self):
        self._last = -1

    def pick(self, values: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
        new = {name: pair for name, pair in values.items() if pair[1] > self._last}
        self._last = max([self._last, *(iteration for _, iteration in new.values())])
        return new


class JSONWriter(EventWriter):
    """Appends one JSON object {"iteration": int, name: value, ...} per line and iteration.

    Args:
        json_file: path; an existing file is continued.
        window_size: iterations to smooth over.
    """

    def __init__(self, json_file: str, window_size: int = 20):
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._new = _New()

    def write(self) -> None:
        values = get_event_storage().latest_with_smoothing_hint(self._window_size)
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in self._new.pick(values).items():
            lines[iteration][name] = value
        for iteration in sorted(lines):
            row = {"iteration": iteration, **lines[iteration]}
            self._file.write(json.dumps(row, sort_keys=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars and pictures as a tensorboard event file.

    Args:
        log_dir: folder of the file, which is created by the first write.
        window_size: iterations to smooth over.
        **kwargs: for `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._log_dir, self._kwargs = log_dir, kwargs
        self._window_size = window_size
        self._new = _New()

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        return SummaryWriter(self._log_dir, **self._kwargs)

    def write(self) -> None:
        values = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in self._new.pick(values).items():
            self._writer.add_scalar(name, value, iteration)
        storage = get_event_storage()
        for name, picture, iteration in storage._vis_data:
            self._writer.add_image(name, picture, iteration)
        storage.clear_images()  # nobody else writes them

    def close(self) -> None:
        if "_writer" in self.__dict__:  # otherwise closing would create an empty file
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs losses, times, learning rate, memory and the remaining time in one line.

    Args:
        max_iter: iterations of the run, for the remaining time; None does without.
        window_size: iterations to smooth over.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # iteration, time

    def _seconds_left(self, storage: EventStorage) -> float | None:
        if self._max_iter is None:
            return None
        iterations = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            return storage.history("time").median(1000) * iterations
        # without a timer, measure the pace between two calls
        now, last = (storage.iter, time.perf_counter()), self._last_write
        self._last_write = now
        if last is None or now[0] == last[0]:
            return None
        return (now[1] - last[1]) / (now[0] - last[0]) * iterations

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # a hook that writes after training would otherwise repeat the last line
        histories = storage.histories()
        parts = []
        seconds = self._seconds_left(storage)
        if seconds is not None:
            parts.append(f"eta: {datetime.timedelta(seconds=int(seconds))}")
        parts.append(f"iter: {storage.iter}")
        for name, history in histories.items():
            if "loss" in name:
                median = history.median(storage.count_samples(name, self._window_size))
                parts.append(f"{name}: {median:.4g}")
        for name in ("time", "data_time"):
            if name in histories:
                average = histories[name].avg(storage.count_samples(name, self._window_size))
                parts.append(f"{name}: {average:.4f}")
                parts.append(f"last_{name}: {histories[name].latest():.4f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(parts))
