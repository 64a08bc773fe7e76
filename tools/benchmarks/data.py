"""How many pictures a second one core makes ready, by pipeline, and where its time goes.

Reads through the loaders of the configs, in this process and by one thread, as each worker process
of a loader does. Times are of the CPU, so that what else the machine does counts little.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig
from tabulate import tabulate

from co_detr import model_zoo
from co_detr.data import CopyPaste, DetectionMapper, mapper

from .pictures import register_pictures

FAST_GPU = 20  # images a second
BATCH_SIZE = 2
PICTURES = 32
PARTS = ["decode", "resize", "crop, flip, pad", "objects", "paste"]
HEADERS = ["", "ms", "min ms", *PARTS, "rest", "images/s", f"cores for {FAST_GPU}/s"]

Change = Callable[[DictConfig], None]


def boxes_only(data: DictConfig) -> None:
    """As for Objects365, which has no masks."""
    data.train.mapper.use_instance_mask = data.train.mapper.recompute_boxes = False
    data.train.mix = None


def canvas_1536(data: DictConfig) -> None:
    data.train.mapper.augmentations.canvas = 1536


def keep_masks(data: DictConfig) -> None:
    data.train.mix.keep_masks = True


# name: data block, the loader in it, what is changed
PIPELINES: dict[str, tuple[str, str, tuple[Change, ...]]] = {
    "DETR, boxes": ("coco_detr", "train", ()),
    "DETR, masks": ("coco_detr_masks", "train", ()),
    "LSJ 1024, boxes": ("coco_lsj", "train", (boxes_only,)),
    "LSJ 1536, boxes": ("coco_lsj", "train", (boxes_only, canvas_1536)),
    "LSJ 1024, copy-paste, boxes": ("coco_lsj", "train", ()),
    "LSJ 1536, copy-paste, masks": ("coco_lsj", "train", (canvas_1536, keep_masks)),
    "test, 800x1333": ("coco_detr", "test", ()),
}


class Stopwatch:
    """CPU time by part; a part called by another one counts for that one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._is_running = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._is_running:
            yield
            return
        self._is_running, start = True, time.process_time()
        try:
            yield
        finally:
            self._is_running = False
            self.seconds[name] += time.process_time() - start

    def on(self, owner: Any, function: str, name: Callable[..., str]) -> Any:
        """A patch that times calls of a function; `name` tells the part by their arguments."""
        original = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name(*args)):
                return original(*args, **kwargs)

        return mock.patch.object(owner, function, timed)

    @contextmanager
    def on_all_parts(self) -> Iterator[None]:
        """Inside, the parts of a pipeline are timed."""
        with ExitStack() as stack:
            for patch in (
                self.on(mapper, "read_picture", lambda *_: "decode"),
                self.on(T.AugInput, "transform", _kind_of_transform),
                self.on(DetectionMapper, "_transform_annotations", lambda *_: "objects"),
                self.on(CopyPaste, "__call__", lambda *_: "paste"),
            ):
                stack.enter_context(patch)
            yield


def _kind_of_transform(_: T.AugInput, transform: T.Transform) -> str:
    return "resize" if "Resize" in type(transform).__name__ else "crop, flip, pad"


def loader_of(block: str, kind: str, changes: tuple[Change, ...], dataset: str) -> Any:
    """The loader of a data block that reads a dataset in this process."""
    data = model_zoo.get_config(f"common/data/{block}").dataloader
    for change in changes:
        change(data)
    loader = data[kind]
    loader.dataset.names, loader.num_workers = dataset, 0
    if kind == "train":
        loader.total_batch_size = BATCH_SIZE
    return instantiate(loader)


def time_pass(loader: Any, pictures: int) -> tuple[float, dict[str, float]]:
    """Seconds of a picture in one pass, and those of its parts with what is left as "rest"."""
    watch = Stopwatch()
    with watch.on_all_parts():
        start, seen = time.process_time(), 0
        for batch in loader:
            seen += len(batch)
            if seen >= pictures:
                break
        total = time.process_time() - start
    parts = dict(watch.seconds)
    parts["rest"] = total - sum(parts.values())
    return total / seen, {name: seconds / seen for name, seconds in parts.items()}


def table(repeats: int, pictures: int = PICTURES) -> str:
    """Rows of all pipelines. All start with the same seed, so that each pass is the same work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        with tempfile.TemporaryDirectory() as folder:
            dataset = f"benchmark_{Path(folder).name}"
            register_pictures(Path(folder), pictures, dataset)
            size = statistics.mean(f.stat().st_size for f in Path(folder).glob("*.jpg")) / 1000
            loaders = {name: loader_of(*rest, dataset) for name, rest in PIPELINES.items()}
            passes = {name: [] for name in loaders}
            for _ in range(1 + repeats):  # the first one warms up
                for name, loader in loaders.items():
                    passes[name].append(time_pass(loader, pictures))
    finally:
        torch.set_num_threads(threads)
    rows = [row(name, taken[1:]) for name, taken in passes.items()]
    head = f"{pictures} pictures of 640x480, {size:.0f} kB on average; medians of {repeats} passes"
    return f"{head}, ms of one core per image\n" + tabulate(
        rows, HEADERS, tablefmt="github", disable_numparse=True
    )


def row(name: str, passes: list[tuple[float, dict[str, float]]]) -> list[str]:
    """Cells under `HEADERS`, of the passes of one pipeline."""
    totals = [total for total, _ in passes]
    median = statistics.median(totals)
    parts = [
        statistics.median(seconds.get(part, 0.0) for _, seconds in passes)
        for part in [*PARTS, "rest"]
    ]
    cells = [f"{1e3 * seconds:.2f}" for seconds in (median, min(totals), *parts)]
    return [name, *cells, f"{1 / median:.0f}", f"{FAST_GPU * median:.2f}"]
