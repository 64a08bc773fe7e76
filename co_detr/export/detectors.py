"""Running exported files with the call of `co_detr.load_detector`.

detector = OnnxDetector("birds.onnx")
instances = detector("photo.jpg", threshold=0.5)
"""

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from co_detr.checkpoint.formats import first_line
from co_detr.data import ResizeShortestEdge
from co_detr.inference.detector import Detector, Picture, to_array
from co_detr.modeling.base_detector import rescale
from co_detr.ops.soft_nms import SoftNMS

from .description import KEY, Description
from .files import require_extra
from .graph import DETECTIONS, INPUTS


class ExportedModel(nn.Module, ABC):
    """An exported file that takes detectron2's batches, as the model does that it was made of.

    Attributes:
        description: of the file.
        path: of the file.
    """

    def __init__(self, description: Description):
        super().__init__()
        self.description = description

    @abstractmethod
    def run(self, images: Tensor, sizes: Tensor) -> Sequence[Tensor]:
        """Arguments and results of `DetectionGraph`."""

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Detections {"instances": ...} for each {"image": (3, h, w) uint8}, which has to fit."""
        return self.detections(batched_inputs, self.run_padded(batched_inputs))

    def run_padded(self, batched_inputs: list[dict]) -> Sequence[Tensor]:
        """Results of `DetectionGraph` for pictures that are padded to the file's input."""
        description = self.description
        shape = (len(batched_inputs), 3, description.height, description.width)
        images = torch.zeros(shape, dtype=torch.uint8)
        sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
        for image, (height, width), x in zip(images, sizes, batched_inputs):
            image[:, :height, :width] = x["image"]
        return self.run(images, torch.tensor(sizes))

    def detections(self, batched_inputs: list[dict], outputs: Sequence[Tensor]) -> list[dict]:
        """Results of the graph in detectron2's format, in the pixels that the inputs ask for."""
        sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
        found = zip(sizes, *outputs[: len(DETECTIONS)])
        return rescale([self._instances(*of_picture) for of_picture in found], batched_inputs)

    def _instances(
        self, size: tuple[int, int], boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> Instances:
        """What was found in one picture; without what NMS in the graph dropped, of score 0."""
        found = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=labels)
        if self.description.soft_nms is None:
            return found[scores > 0]
        kept, lowered = SoftNMS(**self.description.soft_nms)(boxes, scores, labels)
        found = found[kept]
        found.scores = lowered
        return found[: self.description.max_detections]


class OnnxModel(ExportedModel):
    """An ONNX file in onnxruntime.

    Args:
        path: of a file that `co-detr export` wrote.
        providers: of onnxruntime, in order of preference, each a name or (name, options); None for
            all that it has here.
        num_threads: on the CPU; None for onnxruntime's choice.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: onnxruntime is missing; names the extra that brings it.
        ValueError: the file is none of ONNX or says nothing of the model, or there is no such
            provider.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        providers: Sequence[str | tuple[str, dict]] | None = None,
        num_threads: int | None = None,
    ):
        require_extra(("onnxruntime",))
        import onnxruntime

        path = _existing(path, "OnnxDetector")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        available = onnxruntime.get_available_providers()
        names = [p if isinstance(p, str) else p[0] for p in providers or ()]  # or with options
        if missing := [name for name in names if name not in available]:
            raise ValueError(f"providers {missing}: this onnxruntime has {available}")
        with naming_broken_file(path):
            session = onnxruntime.InferenceSession(
                path, options, providers=list(providers or available)
            )
        metadata = session.get_modelmeta().custom_metadata_map
        super().__init__(Description.from_metadata(metadata, path))
        self.session, self.path = session, path

    def run(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        inputs = dict(zip(INPUTS, (images.numpy(), sizes.numpy())))
        return [torch.from_numpy(np.asarray(x)) for x in self.session.run(None, inputs)]


class TorchModel(ExportedModel):
    """A `.pt2` file in PyTorch, on the device that it was exported on.

    Args:
        path: of a file that `co-detr export` wrote as `.pt2`. It may run any operators of PyTorch:
            load those that you trust.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is none of `torch.export`, or says nothing of the model.
    """

    def __init__(self, path: str | os.PathLike):
        path = _existing(path, "TorchDetector")
        metadata = {KEY: ""}
        with naming_broken_file(path):
            program = torch.export.load(path, extra_files=metadata)
        super().__init__(Description.from_metadata(metadata, path))
        self.graph, self.path = program.module(), path

    @torch.no_grad()
    def run(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        device = cast(Tensor, self.graph.pixel_mean).device
        return [x.cpu() for x in self.graph(images.to(device), sizes.to(device))]

    def train(self, mode: bool = True) -> "TorchModel":
        """An exported graph has one mode, and refuses to be asked."""
        return self


class ExportedDetector(Detector):
    """An exported file for pictures of any kind; called like what `co_detr.load_detector` returns.

    Pictures are resized as those of the model, or smaller where they would not fit the file's
    input. Where that pads a picture further than the model alone would have, the detections differ
    a little from the model's, as they do in batches of mixed sizes.
    """

    model: ExportedModel

    def __init__(self, model: ExportedModel, batch_size: int = 1):
        description = model.description
        super().__init__(
            model,
            description.categories,
            min_size=description.min_size,
            max_size=description.max_size,
            image_format=description.image_format,
            batch_size=batch_size,
        )

    @property
    def device(self) -> torch.device:
        """Where detections are."""
        return torch.device("cpu")

    def prepare(self, picture: Picture) -> Tensor:
        """A picture as it goes into the file's input, resized: (3, h, w) uint8."""
        return self.input_of(to_array(picture))["image"]

    def _resize(self, height: int, width: int) -> ResizeShortestEdge:
        return fitting_resize(self.model.description, height, width)

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.model.description.height, self.model.description.width


class OnnxDetector(ExportedDetector):
    """`ExportedDetector` of an ONNX file; arguments as for `OnnxModel`, and `batch_size` as for
    `load_detector`."""

    def __init__(
        self,
        path: str | os.PathLike,
        providers: Sequence[str | tuple[str, dict]] | None = None,
        num_threads: int | None = None,
        batch_size: int = 1,
    ):
        super().__init__(OnnxModel(path, providers, num_threads), batch_size)


class TorchDetector(ExportedDetector):
    """`ExportedDetector` of a `.pt2` file; arguments as for `TorchModel`."""

    def __init__(self, path: str | os.PathLike, batch_size: int = 1):
        super().__init__(TorchModel(path), batch_size)


def fitting_resize(description: Description, height: int, width: int) -> ResizeShortestEdge:
    """The test's resize for a picture of this size, or a smaller one that fits the input."""
    as_tested = ResizeShortestEdge([description.min_size] * 2, description.max_size)
    transform = as_tested.get_transform(np.broadcast_to(np.uint8(0), (height, width, 3)))
    new_h, new_w = getattr(transform, "new_h", height), getattr(transform, "new_w", width)
    if new_h <= description.height and new_w <= description.width:
        return as_tested
    scale = min(description.height / height, description.width / width)
    longest = max(int(max(height, width) * scale + 1e-6), 1)
    return ResizeShortestEdge([longest] * 2, longest)


@contextmanager
def naming_broken_file(path: str) -> Iterator[None]:
    """Inside, whatever a broken file makes its reader raise becomes a ValueError that names it."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {first_line(error)}): it has to be a "
            "whole file that `co-detr export` wrote"
        ) from error


def _existing(path: str | os.PathLike, reader: str) -> str:
    """The path of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is for another class than `reader`.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no exported file {path}")
    if reader_of(path) not in (reader, None):
        raise ValueError(f"{path} is no file for {reader}: {reader_of(path)}({path!r}) reads it")
    return path


def reader_of(path: str) -> str | None:
    """The class for a file that `co-detr export` wrote; None where its content does not tell."""
    with open(path, "rb") as file:
        head = file.read(32)
    if head.startswith(b"\x08") and b"pytorch" in head:  # version and producer, in protobuf
        return "OnnxDetector"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None
    return "TorchDetector" if any(name.endswith(f"/extra/{KEY}") for name in names) else None
