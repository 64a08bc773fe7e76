"""Writing a detector's graph to a file, as ONNX or as PyTorch's `.pt2`."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from .description import KEY, Description
from .graph import INPUTS, DetectionGraph

OPSET = 20
"""Of ONNX: the first with today's GridSample, and read by onnxruntime 1.17 and TensorRT 10."""

MAX_ONNX_BYTES = 2**31
EXTRA = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(
    graph: DetectionGraph, description: Description, path: Path, opset: int = OPSET
) -> None:
    """Write a graph of standard ONNX operators, for batches of any number of pictures.

    Args:
        graph: a detector's.
        description: goes into the metadata, under the key "co_detr", as JSON.
        path: of the file.
        opset: 16 at least, which has GridSample.

    Raises:
        ModuleNotFoundError: a package is missing; names the extra that brings it.
        ValueError: the weights are more than a single ONNX file can hold.
    """
    require_extra()
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    if size >= MAX_ONNX_BYTES:
        raise ValueError(f"{size / 2**30:.1f} GiB of weights do not fit one ONNX file, take .pt2")
    with _quiet():
        program = torch.onnx.export(
            export_program(graph, description),
            dynamic_shapes=({0: "batch"}, {0: "batch"}),  # no more than a name here
            input_names=INPUTS,
            output_names=graph.outputs,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # with dynamo, there is one
    program.model.metadata_props[KEY] = description.to_json()
    program.save(path, external_data=False)


def write_torch(graph: DetectionGraph, description: Description, path: Path) -> None:
    """Write the graph as `torch.export` saves it, with the description beside it.

    Arguments as for `write_onnx`.
    """
    with _quiet():
        program = export_program(graph, description)
    torch.export.save(program, path, extra_files={KEY: description.to_json()})


def export_program(graph: DetectionGraph, description: Description) -> ExportedProgram:
    """The graph for pictures of one size, in batches of any number."""
    height, width = description.height, description.width
    device = graph.pixel_mean.device
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8, device=device)
    sizes = torch.tensor([[height, width]] * 2, device=device)
    batch = {0: Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(graph, (images, sizes), dynamic_shapes=(batch, batch))


def require_extra(names: tuple[str, ...] = EXTRA) -> None:
    """Raise ModuleNotFoundError if a package of the extra is missing, naming the extra."""
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'ONNX needs the package {error.name}: pip install "co-detr[export]"',
                name=error.name,
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on versions of their own."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
