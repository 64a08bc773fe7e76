"""Images are copied a step ahead, awaited before they are handed out, and kept until then."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from co_detr.data.loader import TrainingDataset, keep_list
from co_detr.engine.prefetch import Prefetcher, prefetched


class _Streams:
    """Stands for `torch.cuda`: what is done on which stream, one after the other."""

    def __init__(self):
        self.log, self.now = [], "current"

    def Stream(self, device):
        return "copying"

    @contextmanager
    def stream(self, stream):
        self.now = stream
        yield
        self.now = "current"

    def current_stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: self.log.append(f"wait for {other}"))


class _Image:
    """Stands for an image of pinned memory, or of a GPU."""

    def __init__(self, name, streams, device="cpu"):
        self.name, self.streams, self.device = name, streams, torch.device(device)

    def to(self, device, non_blocking):
        assert non_blocking
        self.streams.log.append(f"{self.streams.now}: copy {self.name}")
        return _Image(self.name, self.streams, device)

    def record_stream(self, stream):
        self.streams.log.append(f"keep {self.name}")


@pytest.fixture
def streams(monkeypatch):
    streams = _Streams()
    monkeypatch.setattr(torch, "get_device_module", lambda device: streams)
    return streams


def test_the_next_images_are_copied_while_a_step_runs(streams):
    loader = [[{"image": _Image(name, streams), "id": name}] for name in "abc"]
    for batch in Prefetcher(loader, "cuda"):
        assert batch[0]["image"].device.type == "cuda"
        streams.log.append(f"step {batch[0]['id']}")
    assert streams.log == [
        *("copying: copy a", "wait for copying", "keep a"),
        *("copying: copy b", "step a", "wait for copying", "keep b"),
        *("copying: copy c", "step b", "wait for copying", "keep c"),
        "step c",
    ]
    assert all(batch[0]["image"].device.type == "cpu" for batch in loader)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_batches_come_in_order_and_as_they_were(number):
    loader = [
        [{"image": torch.full((3, 2, 2), i), "instances": object(), "height": i}] * 2
        for i in range(number)
    ]
    seen = list(Prefetcher(loader, "cpu"))  # torch's streams of a CPU do nothing
    assert seen == loader


def test_no_more_than_one_batch_is_read_ahead():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield [{"image": torch.zeros(3, 1, 1)}]

    batches = iter(Prefetcher(endless(), "cpu"))
    for number in range(1, 4):
        next(batches)
        assert len(taken) == number + 1


def test_an_error_of_the_loader_comes_through():
    def broken():
        yield [{"image": torch.zeros(3, 1, 1)}]
        raise RuntimeError("too many pictures")

    with pytest.raises(RuntimeError, match="too many pictures"):
        list(Prefetcher(broken(), "cpu"))


def test_only_pinned_images_for_a_gpu_are_read_ahead():
    def loader(pin_memory, dataset=None):
        dataset = dataset or TrainingDataset([{}], dict, seed=0)
        return DataLoader(dataset, collate_fn=keep_list, pin_memory=pin_memory)

    assert isinstance(prefetched(loader(True), "cuda"), Prefetcher)
    # what reads with random numbers of the step would read others
    others = (loader(False), "cuda"), (loader(True), "cpu"), (loader(True, [{}]), "cuda")
    for one, device in (*others, ([], "cuda")):
        assert prefetched(one, device) is one
