"""Progress on the console, one short line for a model with dozens of losses; and in files."""

import datetime
import logging

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from .files import naming_full_disk

logger = logging.getLogger(__name__)

WINDOW = 20  # iterations that losses and times are smoothed over


class GroupedMetricPrinter(EventWriter):
    """Logs the total loss, the sum of each group of losses, times, learning rate and what is left.

    A group is what stands before the last "/" of a loss's name: "matching", "customized/atss",
    "rcnn". Single losses are in metrics.json and TensorBoard.

    Args:
        max_iter: iterations of the run, for the remaining time.
    """

    def __init__(self, max_iter: int):
        self.max_iter = max_iter

    def write(self) -> None:
        """Log the current iteration of the storage; nothing after the last one."""
        storage = get_event_storage()
        if storage.iter < self.max_iter:
            logger.info("  ".join(self.parts(storage)))

    def parts(self, storage: EventStorage) -> list[str]:
        """What the line says, piece by piece."""
        histories = storage.histories()
        parts = [f"iter: {storage.iter + 1}/{self.max_iter}"]
        if "time" in histories:
            seconds = histories["time"].median(1000) * (self.max_iter - storage.iter - 1)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
        groups: dict[str, float] = {}
        for name, history in histories.items():
            if "loss" in name:
                group = name.rpartition("/")[0] or name
                groups[group] = groups.get(group, 0.0) + history.median(WINDOW)
        parts += [f"{group}: {value:.4g}" for group, value in groups.items()]
        for name in ("time", "data_time"):
            if name in histories:
                parts.append(f"{name}: {histories[name].avg(WINDOW):.3f} s")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.3g}")
        if torch.cuda.is_available():
            parts.append(f"memory: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        return parts


class FileWriter(EventWriter):
    """A writer whose errors name its file when the disk is full.

    Args:
        writer: does the work.
        path: of its file.
    """

    def __init__(self, writer: EventWriter, path: str):
        self._writer = writer
        self._path = path

    def write(self) -> None:
        with naming_full_disk(self._path):
            self._writer.write()

    def close(self) -> None:
        with naming_full_disk(self._path):
            self._writer.close()
