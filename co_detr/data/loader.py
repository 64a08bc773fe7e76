"""The data loaders of training and of evaluation; pictures that cannot be read are left out.

In training, batch i depends on the seed and on i alone. So a run that was killed continues with the
very batches, in order and in content, that it would have seen, whatever the number of workers and
however far they had read ahead.
"""

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from co_detr.data.pictures import UnreadablePicture
from co_detr.data.records import check_sizes
from co_detr.data.unreadable import OrUnreadable, UnreadableCount, read_example

logger = logging.getLogger(__name__)


class Draw(int):
    """A dataset index that knows its position in the stream of all training samples."""

    position: int

    def __new__(cls, index: int, position: int) -> "Draw":
        draw = super().__new__(cls, index)
        draw.position = position
        return draw

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]  # its position, too
        return int(self), self.position


class TrainingBatches(Sampler[list[Draw]]):
    """Endless batches of indices: shuffled epochs, one after the other, shared out over ranks.

    Args:
        size: number of images in the dataset.
        batch_size: images per batch on this rank.
        seed: with the position in the stream, decides everything.
        start: number of batches to skip at the beginning.
        is_wide: per image, whether it is wider than high: then batches hold images of one kind,
            which wastes less padding.
        repeat_factors: per image, how often it comes in an epoch on average, >= 1; the fraction is
            the probability of one more time, drawn anew for every epoch. None for once.
        rank, world_size: this process and the number of processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        is_wide: Sequence[bool] | None = None,
        repeat_factors: Sequence[float] | np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"no batches of {batch_size} out of {size} images: both must be >= 1")
        if repeat_factors is not None and (len(repeat_factors) != size or min(repeat_factors) < 1):
            raise ValueError(f"need {size} repeat factors >= 1, got {list(repeat_factors)}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.is_wide = is_wide
        self.repeat_factors = None if repeat_factors is None else np.asarray(repeat_factors, float)
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[Draw]]:
        if self.is_wide is None:
            skipped = self.start * self.batch_size * self.world_size
            stream = self._stream(self.rank + skipped)
            while True:
                yield [next(stream) for _ in range(self.batch_size)]

        # Which images wait for company depends on all before: go through them from the beginning.
        waiting: dict[bool, list[Draw]] = {True: [], False: []}
        made = 0
        for draw in self._stream(self.rank):
            group = waiting[bool(self.is_wide[draw])]
            group.append(draw)
            if len(group) == self.batch_size:
                made += 1
                if made > self.start:
                    yield list(group)
                group.clear()

    def _stream(self, position: int) -> Iterator[Draw]:
        """The samples of this rank from a position on."""
        begin = 0
        for epoch in itertools.count():
            order = self._epoch(epoch)
            while position < begin + len(order):
                yield Draw(int(order[position - begin]), position)
                position += self.world_size
            begin += len(order)

    def _epoch(self, epoch: int) -> np.ndarray:
        """The indices of one epoch over all ranks, in their order."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.repeat_factors is None:
            return rng.permutation(self.size)
        whole = np.floor(self.repeat_factors)
        more = rng.random(self.size) < self.repeat_factors - whole
        return rng.permutation(np.repeat(np.arange(self.size), whole.astype(int) + more))


class TrainingDataset(Dataset):
    """Records, read and augmented by a mapper with random numbers of the sample's own.

    An image that cannot be read is logged and replaced by another one. Training goes on as long as
    that stays the exception, see `UnreadableCount`, which each worker process has its own of.

    Args:
        dicts: detectron2's records.
        mapper: makes a training example of a record, e.g. `DetectionMapper`.
        seed: with the position of a sample in the stream, decides its augmentation.
        mix: makes one example of two, the second of a random record, e.g. `CopyPaste`.
    """

    def __init__(
        self,
        dicts: list[dict],
        mapper: Callable[[dict], dict | None],
        *,
        seed: int,
        mix: Callable[[dict, dict], dict] | None = None,
    ) -> None:
        self.records = DatasetFromList(dicts)
        self.mapper = mapper
        self.seed = seed
        self.mix = mix
        self.count = UnreadableCount(total=len(dicts))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: int) -> dict:
        """The example of an index; random if the index is a `Draw`, by its position."""
        position = getattr(draw, "position", int(draw))
        with random_numbers_of([self.seed, position]):
            example = self._read(int(draw))
            if self.mix is not None:
                example = self.mix(example, self._read(np.random.randint(len(self))))
            return example

    def _read(self, index: int) -> dict:
        """The example of a record, or of a random one where that cannot be read."""
        in_a_row = 0
        while True:
            record = self.records[index]
            record.setdefault("annotations", [])
            try:
                example = read_example(self.mapper, record)
                self.count.add_read()
                if example is not None:
                    return example
            except UnreadablePicture as error:
                in_a_row += 1
                self.count.add_unreadable(error)
                if self.count.exceeds_limit or in_a_row >= self.count.ALWAYS_ALLOWED:
                    raise self.count.too_many(error) from error
            index = np.random.randint(len(self))


@contextmanager
def random_numbers_of(entropy: list[int]) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's global generators start from `entropy`.

    Afterwards they continue as if nothing had happened.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.random.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def build_train_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    num_workers: int = 4,
    aspect_ratio_grouping: bool = True,
    repeat_threshold: float | None = None,
    mix: Callable[[dict, dict], dict] | None = None,
    seed: int | None = None,
    start_iter: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """An endless loader of training batches (lists of examples).

    Args:
        dataset: detectron2's records, as `load_dataset` returns them.
        mapper: makes a training example of a record.
        total_batch_size: images per iteration over all processes.
        num_workers: reading processes per training process; 0 reads in the training process.
        aspect_ratio_grouping: whether to batch wide images with wide ones and high with high ones.
        repeat_threshold: images of categories that fewer than this share of the images show come
            more often (LVIS, Gupta et al. 2019, section 5.1); see
            `RepeatFactorTrainingSampler.repeat_factors_from_category_frequency`. None for never.
        mix: makes one example of two, e.g. `CopyPaste`.
        seed: of order and augmentation. None and negative numbers stand for 0: a run can be
            resumed only where the order of its data is known.
        start_iter: number of batches already consumed, when training is resumed.
        pin_memory: whether a thread puts images into pinned memory, from where a GPU copies them
            while it computes, see `co_detr.engine.prefetch`. Without a GPU nothing is pinned.

    Raises:
        ValueError: processes cannot share the batches evenly, or a record lacks the size that
            `aspect_ratio_grouping` asks for.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(
            f"total_batch_size {total_batch_size} cannot be shared by {world_size} processes: set "
            "dataloader.train.total_batch_size to a multiple of their number"
        )
    seed = max(seed or 0, 0)
    is_wide = None
    if aspect_ratio_grouping:
        check_sizes(dataset)
        is_wide = [d["width"] > d["height"] for d in dataset]
    repeat_factors = None
    if repeat_threshold is not None:
        repeat_factors = repeat_factors_of(dataset, repeat_threshold)
    return DataLoader(
        TrainingDataset(dataset, mapper, seed=seed, mix=mix),
        batch_sampler=TrainingBatches(
            len(dataset),
            total_batch_size // world_size,
            seed=seed,
            start=start_iter,
            is_wide=is_wide,
            repeat_factors=repeat_factors,
            rank=comm.get_rank(),
            world_size=world_size,
        ),
        num_workers=num_workers,
        collate_fn=keep_list,
        pin_memory=pin_memory and torch.cuda.is_available(),
        # The loader draws a seed for its workers; from the global generator it would take a number
        # that an uninterrupted run does not take.
        generator=torch.Generator().manual_seed(seed),
    )


class TestLoader(DataLoader):
    """A loader of test examples whose batches lack the pictures that could not be read.

    Batches without any are left out, so that there may be fewer than `len` says. Every picture left
    out is logged by this process, wherever it was to be read.

    Attributes:
        left_out: files that the last pass over the data has left out.
    """

    __test__ = False  # no test, whatever its name says to pytest
    dataset: MapDataset
    left_out: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[list[dict]]:  # type: ignore[override]  # DataLoader's is private
        """Raises RuntimeError when too many pictures cannot be read, see `UnreadableCount`."""
        count = UnreadableCount(total=len(self.dataset))
        self.left_out = ()
        for batch in super().__iter__():
            examples = []
            for example in batch:
                if not isinstance(example, UnreadablePicture):
                    count.add_read()
                    examples.append(example)
                    continue
                self.left_out += (str(example.file),)
                count.add_unreadable(example)
                if count.exceeds_limit:
                    raise count.too_many(example)
            if examples:
                yield examples


def build_test_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    num_workers: int = 0,
    batch_size: int = 1,
) -> TestLoader:
    """A loader of test examples in the order of the records, each rank its share.

    Args:
        dataset: detectron2's records, as `load_dataset` returns them.
        mapper: makes an example of a record, e.g. `DetectionMapper(is_train=False, ...)`.
        num_workers: reading processes per evaluating process; 0 reads in the latter.
        batch_size: images per batch and process.
    """
    return TestLoader(
        MapDataset(DatasetFromList(dataset), OrUnreadable(mapper)),
        batch_size=batch_size,
        sampler=InferenceSampler(len(dataset)),
        num_workers=num_workers,
        collate_fn=keep_list,
    )


def report_left_out(loader: Iterable[list[dict]]) -> None:
    """Log, on the main process, what all ranks left out of an evaluation; all have to call it."""
    own = loader.left_out if isinstance(loader, TestLoader) else ()
    files = sorted(sum(comm.all_gather(own), ()))
    if files and isinstance(loader, TestLoader) and comm.is_main_process():
        shown = ", ".join(files[:10]) + (", ..." if len(files) > 10 else "")
        logger.warning(
            f"Left out of this evaluation: {len(files)} of {len(loader.dataset)} images, which "
            f"could not be read; their objects do not count: {shown}"
        )


def repeat_factors_of(dataset: list[dict], threshold: float) -> np.ndarray:
    """How often each image is to be shown per epoch, (images,) float, at least 1.

    A category that a share f of the images show has the factor max(1, sqrt(threshold / f)); an
    image has the largest of its categories.
    """
    annotations = [{"annotations": record.get("annotations", ())} for record in dataset]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        annotations, threshold
    ).numpy()
    logger.info(
        f"Repeat factors: {(factors > 1).sum()} of {len(factors)} images come more than once per "
        f"epoch, at most {factors.max():.2f} times; {factors.sum():.0f} images per epoch"
    )
    return factors


def keep_list(batch: list[dict]) -> list[dict]:
    """A batch as detectron2's models take it: the list of its examples."""
    return batch
