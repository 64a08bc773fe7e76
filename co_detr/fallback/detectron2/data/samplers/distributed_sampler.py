"""Samplers that give every rank its own share of a dataset's indices."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from detectron2.utils import comm

__all__ = ["InferenceSampler", "RepeatFactorTrainingSampler", "TrainingSampler"]


class TrainingSampler(Sampler):
    """
    An endless stream of indices, shuffled anew for every epoch.

    All ranks draw the same stream and take every `world size`-th index of it, so together they
    visit each index once per epoch. Every iteration starts the stream over.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            size: length of the dataset.
            shuffle: whether to shuffle or to count up.
            seed: of the shuffling, equal on all ranks; None: a random one that ranks agree on.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler needs the dataset's length as an int, got {size!r}")
        if size <= 0:
            raise ValueError(f"TrainingSampler needs a dataset that is not empty, got size {size}")
        self._size = size
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class RepeatFactorTrainingSampler(Sampler):
    """
    A training stream in which image i appears `repeat_factors[i]` times per epoch on average.

    Oversamples images of rare categories (Gupta et al., LVIS, 2019, section 5.1).
    """

    def __init__(
        self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None
    ) -> None:
        """
        Args:
            repeat_factors: (images,) floats. The fractional part is the probability of one more
                repetition, drawn anew for every epoch.
        """
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """
        Repeat factors of images from how many images show each category.

        A category shown in a fraction f of the images has the factor
        max(1, sqrt(repeat_thresh / f)), an image the largest factor of its categories, and 1
        without any.

        Args:
            dataset_dicts: records with "annotations".
            repeat_thresh: the frequency below which categories are oversampled.
            sqrt: False leaves the square root out.

        Returns:
            (images,) float32.
        """
        shown = [{a["category_id"] for a in record["annotations"]} for record in dataset_dicts]
        counts = Counter(category for categories in shown for category in categories)
        factors = {}
        for category, count in counts.items():
            ratio = repeat_thresh * len(dataset_dicts) / count
            factors[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
        per_image = [max((factors[c] for c in categories), default=1.0) for categories in shown]
        return torch.tensor(per_image, dtype=torch.float32)

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            extra = torch.rand(len(self._fraction), generator=generator) < self._fraction
            repeats = self._whole.long() + extra.long()
            indices = torch.repeat_interleave(torch.arange(len(repeats)), repeats)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class InferenceSampler(Sampler):
    """
    Every index once and in order, each rank one contiguous share; shares differ by at most one.

    Unlike torch's DistributedSampler it never repeats an index to even out the shares, since a
    repeated image would falsify the evaluation.
    """

    def __init__(self, size: int) -> None:
        assert size > 0, f"InferenceSampler needs a dataset that is not empty, got size {size}"
        rank, world_size = comm.get_rank(), comm.get_world_size()
        self._indices = range(size * rank // world_size, size * (rank + 1) // world_size)

    def __iter__(self) -> Iterator[int]:
        yield from self._indices

    def __len__(self) -> int:
        return len(self._indices)
