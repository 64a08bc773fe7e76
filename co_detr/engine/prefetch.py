"""Images on their way to a GPU while the step before runs."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from co_detr.data.loader import TrainingDataset

Batch = list[dict[str, Any]]


class Prefetcher:
    """Batches whose images are on a device, copied while the caller works on the batch before.

    Copies go through a stream of their own, from pinned memory without the host waiting; the
    current stream waits for those of a batch before the batch is handed out. All but the images is
    left where it is. One batch is read ahead, so reading must not draw from the random numbers of a
    step: `TrainingDataset` has its own.

    Args:
        loader: yields lists of examples, each a dict with "image", in pinned memory.
        device: where the images go.
    """

    def __init__(self, loader: Iterable[Batch], device: str | torch.device) -> None:
        self.loader = loader
        self.device = torch.device(device)

    def __iter__(self) -> Iterator[Batch]:
        streams = torch.get_device_module(self.device)
        copying = streams.Stream(self.device)
        ready: Batch | None = None
        for batch in self.loader:
            with streams.stream(copying):
                copied = [
                    {**example, "image": example["image"].to(self.device, non_blocking=True)}
                    for example in batch
                ]
            if ready is not None:
                yield ready
            current = streams.current_stream(self.device)
            current.wait_stream(copying)
            for example in copied:
                if example["image"].device.type != "cpu":
                    # or its memory could be used again while this stream still reads it
                    example["image"].record_stream(current)
            ready = copied
        if ready is not None:
            yield ready


def prefetched(loader: Any, device: str | torch.device) -> Any:
    """A loader with its images read ahead to a GPU where it pins memory; else the loader."""
    pins = (
        isinstance(loader, DataLoader)
        and loader.pin_memory
        and isinstance(loader.dataset, TrainingDataset)
    )
    return Prefetcher(loader, device) if pins and torch.device(device).type == "cuda" else loader
