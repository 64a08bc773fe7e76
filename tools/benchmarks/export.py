"""What `tools/benchmark.py export` measures: exported files against the model, on the CPU.

Each model is exported and checked, and then its three forms run in turns on the same picture: the
model, its `.pt2`, and its ONNX file in onnxruntime, all with as many threads. Each form has a
process of its own, as where it is deployed: neither the threads nor the memory of another one are
in its way.
"""

import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.models import DINO_CONFIG, R50_CONFIG
from detectron2.config import instantiate
from tabulate import tabulate
from torch import nn

from co_detr import model_zoo
from co_detr.checkpoint.loading import load_for_inference
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.data import read_picture
from co_detr.export.check import ExportDiffersError, expected_detections
from co_detr.export.detectors import OnnxDetector, TorchDetector
from co_detr.export.exporting import SUFFIXES, export, set_nms
from co_detr.inference.detector import Detector

Form = tuple[str, Path] | None  # format and file of an export; None for the model itself

call: Callable[[], object]  # of this process, see `prepare`

SIDE = 640  # of the input, for models that are tested at any size: that of the picture
HEADERS = [
    "model",
    "form",
    "file, MB",
    "boxes, px",
    "scores",
    "median ms",
    "CPU ms",
    "model / form",
]


@dataclass(frozen=True)
class Case:
    """A model to export.

    Attributes:
        config: a name of the model zoo.
        weights: a checkpoint; None for random ones.
    """

    config: str
    weights: str | None = None

    @classmethod
    def from_text(cls, text: str) -> "Case":
        """Of CONFIG or CONFIG=WEIGHTS."""
        return cls(*text.split("=", 1))

    def detector(self, size: tuple[int, int]) -> Detector:
        torch.manual_seed(0)
        config = model_zoo.get_config(self.config)
        model = instantiate(without_pretrained(config.get("model"))).eval()
        if self.weights is None:
            spread_scores(model)
            set_nms(model, "none")  # else rounding decides which of two like boxes goes first
        else:
            load_for_inference(model, self.weights)
        categories = [{"id": i, "name": f"class {i}"} for i in range(model.num_classes)]
        return Detector(model, categories, min_size=min(size), max_size=max(size))


def spread_scores(model: nn.Module) -> None:
    """Give a new model the class scores of a trained one: of all sizes.

    New weights score everything alike: rounding would decide which proposals become queries.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features == model.num_classes:
            nn.init.normal_(module.weight, std=2 / math.sqrt(module.in_features))


CASES = (
    Case(R50_CONFIG),
    Case(DINO_CONFIG),
    Case("co_deformable_detr/co_deformable_detr_swin_tiny_12ep"),
)


def table(repeats: int, cases: Sequence[Case] = CASES, picture: str | None = None) -> str:
    """Measure and compare.

    Args:
        repeats: of each form, in turns.
        cases: the models.
        picture: a file, which gives the size of the input; None for noise of `SIDE` x `SIDE`.
    """
    image = noise() if picture is None else read_picture(picture)
    rows = []
    for case in cases:
        print(f"export: {case.config}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(case, image, repeats, Path(folder))
    threads = torch.get_num_threads()
    where = f"cpu, {threads} threads, {image.shape[0]} x {image.shape[1]} pixels"
    versions = f"torch {torch.__version__}, {repeats} repeats of each form, in turns"
    return f"{where}, {versions}\n{tabulate(rows, HEADERS, tablefmt='github')}"


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def measure(case: Case, image: np.ndarray, repeats: int, folder: Path) -> Iterator[list[object]]:
    """The rows of a model: its own, and one of each file."""
    size = image.shape[:2]
    detector = case.detector(size)
    differences, files, forms = {}, {}, {}
    for format, name in (("torch", ".pt2"), ("onnx", "ONNX")):
        files[name] = folder / f"model{SUFFIXES[format]}"
        try:
            differences[name] = export(detector, files[name], image, format=format, size=size)
        except ExportDiffersError as error:
            print(f"{case.config}, {name}: {error}", file=sys.stderr, flush=True)
            continue
        forms[name] = (format, files[name])
    times = in_turns({"model": None, **forms}, case, image, repeats)
    wall = {name: statistics.median(w for w, _ in taken) for name, taken in times.items()}
    for name, taken in times.items():
        cells = ["", "", ""]
        if name in differences:
            boxes, scores = differences[name].boxes, differences[name].scores
            cells = [f"{files[name].stat().st_size / 1e6:.1f}", f"{boxes:.1e}", f"{scores:.1e}"]
        cpu = statistics.median(c for _, c in taken)
        ratio = f"{wall['model'] / wall[name]:.2f}"
        yield [case.config, name, *cells, f"{1e3 * wall[name]:.1f}", f"{1e3 * cpu:.1f}", ratio]


def in_turns(
    forms: dict[str, Form], case: Case, image: np.ndarray, repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the clock, and of CPU time, of every call of each form, a process each."""
    times = {name: [] for name in forms}
    with ExitStack() as stack:
        processes = {}
        for name, form in forms.items():
            process = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=prepare,
                initargs=(form, case, image, torch.get_num_threads()),
            )
            processes[name] = stack.enter_context(process)
        for repeat in range(repeats + 1):
            for name, process in processes.items():
                taken = process.submit(timed_call).result()
                if repeat:  # the first warms up
                    times[name].append(taken)
    return times


def prepare(form: Form, case: Case, image: np.ndarray, threads: int) -> None:
    """Make ready, in a process of its own, what `timed_call` calls."""
    global call
    torch.set_num_threads(threads)
    inputs = [{"image": torch.from_numpy(image).permute(2, 0, 1).contiguous()}]
    size = image.shape[:2]
    if form is None:
        model = case.detector(size).model
        call = partial(expected_detections, model, inputs, *size)
        return
    format, file = form
    if format == "torch":
        detector = TorchDetector(file)
    else:
        detector = OnnxDetector(file, ["CPUExecutionProvider"], threads)
    call = partial(detector.model, inputs)


def timed_call() -> tuple[float, float]:
    """Seconds by the clock, and of the process's CPU time."""
    start, cpu_start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - cpu_start
