"""Datasets made of a list, of a mapped dataset, and batches of similar aspect ratio."""

import copy
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset"]


class _PickledList:
    """
    A list kept as one byte tensor.

    Forked workers share its memory. A plain list they would copy page by page, since reading a
    Python object changes its reference count.
    """

    def __init__(self, items: list) -> None:
        pickled = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        sizes = torch.tensor([len(p) for p in pickled], dtype=torch.int64)
        self._ends = torch.cumsum(sizes, 0)
        joined = np.frombuffer(bytearray(b"".join(pickled)), dtype=np.uint8)
        self._bytes = torch.from_numpy(joined) if pickled else torch.zeros(0, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]  # from the end, and not beyond it
        start = int(self._ends[index - 1]) if index > 0 else 0
        stop = int(self._ends[index])
        return pickle.loads(memoryview(self._bytes[start:stop].numpy()))


class DatasetFromList(Dataset):
    """A list as a torch dataset."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True) -> None:
        """
        Args:
            lst: the items.
            copy: whether to hand out deep copies, so that users may change what they get.
                Serialized items are fresh objects anyway.
            serialize: whether to keep the items pickled, in memory that workers share.
        """
        self._items = _PickledList(lst) if serialize else lst
        self._copy = copy and not serialize

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        item = self._items[index]
        return copy.deepcopy(item) if self._copy else item


class _PicklableFunction:
    """A function that survives pickling even where it is a lambda or a closure."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple:
        return _restore_function, (cloudpickle.dumps(self._function),)


def _restore_function(pickled: bytes) -> _PicklableFunction:
    return _PicklableFunction(cloudpickle.loads(pickled))


class _MappedStream(IterableDataset):
    def __init__(self, dataset: Iterable, map_func: Callable) -> None:
        self._dataset = dataset
        self._map_func = _PicklableFunction(map_func)

    def __iter__(self) -> Iterator:
        for item in self._dataset:
            mapped = self._map_func(item)
            if mapped is not None:
                yield mapped


class MapDataset(Dataset):
    """
    A dataset with a function applied to each item at access time.

    Where the function returns None the item is replaced by another, drawn at random. Over an
    IterableDataset the result is an IterableDataset that leaves such items out.
    """

    def __new__(cls, dataset: Any, map_func: Callable) -> Any:
        if isinstance(dataset, IterableDataset):
            return _MappedStream(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable) -> None:
        self._dataset = dataset
        self._map_func = (
            map_func if isinstance(map_func, _PicklableFunction) else _PicklableFunction(map_func)
        )
        self._generator = random.Random(42)

    def __reduce__(self) -> tuple:
        return type(self), (self._dataset, self._map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        failed: set[int] = set()
        while True:
            mapped = self._map_func(self._dataset[index])
            if mapped is not None:
                return mapped
            failed.add(int(index))
            if len(failed) == len(self):
                raise RuntimeError(
                    f"the mapper returned None for each of the {len(self)} records; check its "
                    "filters"
                )
            while index in failed:
                index = self._generator.randrange(len(self))


class AspectRatioGroupedDataset(IterableDataset):
    """
    Batches of images that are all wider than high, or all not; saves padding.

    Images that do not fill a batch wait for the next ones of their kind.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        """
        Args:
            dataset: yields dicts with "width" and "height".
            batch_size: images per batch.
        """
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[dict]]:
        buckets: dict[bool, list[dict]] = {True: [], False: []}
        for item in self.dataset:
            wide = item["width"] > item["height"]
            buckets[wide].append(item)
            if len(buckets[wide]) == self.batch_size:
                batch, buckets[wide] = buckets[wide], []
                yield batch
