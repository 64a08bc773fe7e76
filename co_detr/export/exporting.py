"""From a detector to a file that was checked against it."""

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from co_detr.inference.detector import Detector, to_array
from co_detr.modeling.postprocess import TopKDetections
from co_detr.ops.soft_nms import NMS, SoftNMS

from .check import Difference, compare, expected_detections
from .description import Description
from .detectors import ExportedDetector, OnnxDetector, TorchDetector
from .files import OPSET, require_extra, write_onnx, write_torch
from .graph import DETECTIONS, DetectionGraph, exportable

logger = logging.getLogger("co_detr.export")

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
SMALLER = 0.7  # of the checked picture's sides, for one that leaves padding on both

Format = Literal["onnx", "torch"]


def format_of(path: Path, asked: Format | None) -> Format:
    """The format of a file by its name, or that asked for where its suffix means none.

    Raises:
        ValueError: neither says one, or both another.
    """
    meant = cast(Format | None, {s: name for name, s in SUFFIXES.items()}.get(path.suffix.lower()))
    format = asked or meant
    if format is None:
        raise ValueError(
            f"{path} ends neither in .onnx nor in .pt2: name it so, or say the format, onnx or "
            "torch (--format)"
        )
    if meant not in (format, None):
        raise ValueError(
            f"the format {format} does not go with {path.suffix} files such as {path}: name it "
            f"{path.with_suffix(SUFFIXES[format])}, or say {meant} (--format)"
        )
    return format


def export(
    detector: Detector,
    path: str | os.PathLike,
    picture: Any,
    *,
    format: Format | None = None,
    size: tuple[int, int] | None = None,
    tolerance: float = 1e-3,
    opset: int = OPSET,
) -> Difference:
    """Write a detector to a file, and compare the detections of the two.

    They are compared on a batch of two: the picture, and a smaller copy that has to be padded. The
    file gets its name afterwards; where they differ, there is no file.

    Args:
        detector: what `load_detector` returns, on the CPU. Masks are left out.
        path: of the file; one that exists is replaced.
        picture: a real one, as `detector` takes it.
        format: "onnx", or "torch" for the `.pt2` of `torch.export`; None to go by the name.
        size: (height, width) of the input; None for `default_size`.
        tolerance: of box coordinates, in pixels of the input.
        opset: of ONNX.

    Returns:
        How far the detections differ.

    Raises:
        ExportDiffersError: by more than the tolerance, or the detections are others.
        ModuleNotFoundError: a package is missing; names the extra that brings it.
        TypeError, ValueError: this model or size cannot be exported, or name and format do not go
            together; says why.
    """
    path = Path(path).expanduser()
    format = format_of(path, format)
    if format == "onnx":
        require_extra()
    graph = DetectionGraph(detector.model)
    if getattr(detector.model, "instance_mask", None) is not None:
        logger.warning("Only boxes are exported: the file will not predict masks")
    description = describe(detector, size or default_size(detector, picture))
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_name(f".unchecked.{path.stem}{SUFFIXES[format]}")
    try:
        if format == "onnx":
            write_onnx(graph, description, unchecked, opset)
            exported: ExportedDetector = OnnxDetector(unchecked)
        else:
            write_torch(graph, description, unchecked)
            exported = TorchDetector(unchecked)
        difference = check(exported, detector.model, picture, tolerance)
        os.replace(unchecked, path)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def check(
    exported: ExportedDetector, model: nn.Module, picture: Any, tolerance: float = 1e-3
) -> Difference:
    """Compare an exported file with its model on a picture and a smaller copy, in one batch.

    The model takes proposals in the file's order, where that differs among equal scores only.

    Raises:
        ExportDiffersError: as `compare`.
    """
    large = exported.prepare(picture)
    height, width = (max(round(SMALLER * side), 1) for side in large.shape[-2:])
    smaller = Image.fromarray(large.permute(1, 2, 0).numpy()).resize((width, height))
    small = torch.from_numpy(np.array(smaller)).permute(2, 0, 1)
    inputs = [{"image": large}, {"image": small}]
    description = exported.model.description
    outputs = exported.model.run_padded(inputs)
    found = [output["instances"] for output in exported.model.detections(inputs, outputs)]
    ranking = outputs[len(DETECTIONS)] if len(outputs) > len(DETECTIONS) else None
    size = description.height, description.width
    return compare(found, expected_detections(model, inputs, *size, ranking), tolerance)


def describe(detector: Detector, size: tuple[int, int]) -> Description:
    """What the file of a detector says of itself, with an input of (height, width).

    Raises:
        TypeError: the model cannot be exported.
        ValueError: it does not take that size.
    """
    model = exportable(detector.model)
    divisor = max(model.backbone.size_divisibility, 1)
    if any(side < 1 or side % divisor for side in size):
        raise ValueError(f"the sides of size={tuple(size)} have to be multiples of {divisor}")
    if model.canvas is not None and tuple(size) != (model.canvas, model.canvas):
        raise ValueError(
            f"size={tuple(size)} is not the model's canvas: export it for {model.canvas} x "
            f"{model.canvas}, or set model.canvas"
        )
    postprocess = cast(TopKDetections, model.postprocess)
    suppression = postprocess.suppression
    return Description(
        *size,
        categories=detector.categories,
        image_format=detector.image_format,
        min_size=detector.min_size,
        max_size=detector.max_size,
        max_detections=postprocess.max_detections,
        soft_nms=asdict(suppression) if isinstance(suppression, SoftNMS) else None,
    )


def default_size(detector: Detector, picture: Any) -> tuple[int, int]:
    """The square that holds all pictures as the model is tested on them; where that may be of any
    size, (height, width) of a picture, rounded up to what the backbone divides.

    Raises:
        TypeError: the model cannot be exported.
    """
    model = exportable(detector.model)
    if model.canvas is not None:
        return model.canvas, model.canvas
    divisor = max(model.backbone.size_divisibility, 1)
    sides = to_array(picture).shape[:2]
    if detector.min_size and detector.max_size:
        sides = (detector.max_size, detector.max_size)
    height, width = (-(-side // divisor) * divisor for side in sides)
    return height, width


def set_nms(model: nn.Module, nms: str) -> None:
    """Change how a model treats duplicates: "model" for no change, "none", or an IoU for NMS.

    Raises:
        TypeError: the model cannot be exported.
        ValueError: it is none of these.
    """
    if nms == "model":
        return
    try:
        threshold = None if nms == "none" else float(nms)
    except ValueError:
        threshold = -1.0
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f'--nms {nms} is neither "model", "none" nor an IoU between 0 and 1')
    postprocess = cast(TopKDetections, exportable(model).postprocess)
    postprocess.suppression = None if threshold is None else NMS(threshold)
