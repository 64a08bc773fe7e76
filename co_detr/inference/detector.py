"""A trained detector for pictures of any kind, from its checkpoint in one line.

    import co_detr
    detector = co_detr.load_detector("output/birds/model_best.pth")
    instances = detector("photo.jpg", threshold=0.5)

What it finds are detectron2's `Instances`, which supervision reads:

    detections = supervision.Detections.from_detectron2({"instances": instances})
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from torch import nn

from co_detr import model_zoo
from co_detr.checkpoint.model_card import test_resize, trains_mirrored
from co_detr.checkpoint.reading import Checkpoint
from co_detr.data import ResizeShortestEdge
from co_detr.modeling.input_checks import RGB_ARRAY, check_array

from .inputs import find_pictures
from .loading import build_trained, device_there_is, find_config
from .pictures import Picture, readable, to_array
from .predictor import categories_for

T = TypeVar("T")

_WINDOW = 4  # batches of a folder that are read before pictures of like sizes are grouped


class Detector:
    """A trained model, and how pictures have to reach it.

    Args, Attributes:
        model: takes detectron2's batches and returns detectron2's outputs; put in evaluation mode.
        categories: id in the dataset, and name, of the classes 0, 1, ...
        min_size, max_size: pixels to which the shorter side of a picture is resized, and of the
            longer side at most; `min_size` 0 leaves pictures as they are.
        image_format: "RGB" or "BGR", the order of channels that the model takes.
        mirrored: whether the model was trained on mirror images, too.
        batch_size: of pictures that go through the model together, at most.
    """

    def __init__(
        self,
        model: nn.Module,
        categories: Sequence[Mapping[str, Any]],
        *,
        min_size: int = 800,
        max_size: int = 1333,
        image_format: str = "RGB",
        mirrored: bool = False,
        batch_size: int = 4,
    ):
        self.model = model.eval()
        self.categories = [dict(category) for category in categories]
        self.min_size = min_size
        self.max_size = max_size
        self.image_format = image_format
        self.mirrored = mirrored
        self.batch_size = batch_size

    @property
    def class_names(self) -> list[str]:
        """What the classes 0, 1, ... are called."""
        return [category["name"] for category in self.categories]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def __call__(
        self,
        source: Picture | list[Picture] | tuple[Picture, ...],
        threshold: float = 0.5,
        batch_size: int | None = None,
    ) -> Instances | list[Instances] | Iterator[tuple[Path, Instances]]:
        """Detect the objects in one picture, in several, or in those of a folder.

        Args:
            source: the path of a picture or of a folder, a picture of Pillow, an array
                (H, W, 3) in RGB with values from 0 to 255; or a list or tuple of such pictures.
                Files and Pillow's pictures are taken upright, by their EXIF orientation.
            threshold: least score, 0 to 1.
            batch_size: another one than the detector's.

        Returns:
            Of a picture, its detections, on the CPU: `pred_boxes` (XYXY in pixels of the picture),
            `scores`, `pred_classes` and, of models with masks, `pred_masks` (N, height, width).
            Of several pictures, a list of that. Of a folder, an iterator over the paths of its
            pictures, by name, with their detections; it reads as it goes, and leaves out, with a
            warning, what cannot be read.

        Raises:
            UnreadablePicture: a file is no picture.
            TypeError, ValueError: an array is of another kind, shape or range than it has to be.
            ValueError: `threshold` is no number from 0 to 1, or `batch_size` is none from 1 on.
        """
        check_threshold(threshold)
        if isinstance(source, list | tuple):
            return self.predict([to_array(s) for s in source], threshold, batch_size)
        if isinstance(source, str | os.PathLike) and os.path.isdir(os.path.expanduser(source)):
            paths, _ = find_pictures([os.fspath(source)])
            return self._predict_files(paths, threshold, batch_size or self.batch_size)
        return self.predict([to_array(source)], threshold, batch_size)[0]

    def predict(
        self,
        images: Sequence[np.ndarray],
        threshold: float = 0.0,
        batch_size: int | None = None,
    ) -> list[Instances]:
        """Detect the objects in pictures; those that are padded to one size go together.

        Args:
            images: arrays (H, W, 3) in RGB, of any sizes.
            threshold, batch_size: as for calls.

        Returns:
            Detections of each picture, in the order of the pictures, as calls return them.

        Raises:
            TypeError, ValueError: as for calls.
        """
        check_threshold(threshold)
        size = self._at_least_one(batch_size)
        inputs = [self.input_of(image) for image in images]
        groups = defaultdict(list)
        for index, x in enumerate(inputs):
            groups[self._padded_size(*x["image"].shape[-2:])].append(index)
        found: dict[int, Instances] = {}
        for group in groups.values():
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                with torch.no_grad():
                    outputs = self.model([inputs[index] for index in batch])
                for index, output in zip(batch, outputs):
                    instances = output["instances"].to("cpu")
                    found[index] = instances[instances.scores >= threshold]
        return [found[index] for index in range(len(inputs))]

    def stream(
        self,
        images: Iterable[np.ndarray],
        threshold: float = 0.0,
        batch_size: int | None = None,
    ) -> Iterator[Instances]:
        """As `predict`, one after the other, of pictures that come one after the other, such as the
        frames of a video: a batch of them is in memory at a time."""
        for batch in _in_parts(images, self._at_least_one(batch_size)):
            yield from self.predict(batch, threshold, batch_size)

    def _predict_files(
        self, paths: Sequence[Path], threshold: float, batch_size: int
    ) -> Iterator[tuple[Path, Instances]]:
        for window in _in_parts(readable(paths), _WINDOW * self._at_least_one(batch_size)):
            found = self.predict([image for _, image in window], threshold, batch_size)
            yield from zip((path for path, _ in window), found)

    def _at_least_one(self, batch_size: int | None) -> int:
        size = self.batch_size if batch_size is None else batch_size
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"batch_size={size!r:.80} must be at least 1, a whole number")
        return size

    def input_of(self, image: np.ndarray) -> dict[str, Any]:
        """The model's input for an array (H, W, 3) in RGB."""
        check_array(image, RGB_ARRAY)
        height, width = image.shape[:2]
        image = image if self.image_format == "RGB" else image[:, :, ::-1]
        resize = self._resize(height, width)
        image = resize.get_transform(image).apply_image(np.ascontiguousarray(image))
        tensor = torch.as_tensor(np.array(image.transpose(2, 0, 1), order="C"))
        return {"image": tensor, "height": height, "width": width}

    def _resize(self, height: int, width: int) -> ResizeShortestEdge:
        """How a picture of this size is resized."""
        return ResizeShortestEdge([self.min_size] * 2, self.max_size)

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        """What the model pads a picture to that is alone in a batch."""
        if side := getattr(self.model, "canvas", None):
            return side, side
        divisor = getattr(getattr(self.model, "backbone", None), "size_divisibility", 0) or 1
        return math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless a least score is a number from 0 to 1."""
    if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r:.80} must be a number from 0 to 1, a least score")


def load_detector(
    source: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    *,
    config_file: str | None = None,
    overrides: Sequence[str] = (),
    device: str | torch.device | None = None,
    batch_size: int = 4,
) -> Detector:
    """A detector from a checkpoint, which usually knows its model.

        detector = load_detector("output/birds/model_best.pth")
        detector = load_detector("co_dino/co_dino_r50_5scale_12ep", weights="co_dino.safetensors")

    A config that a checkpoint brings may build the modules of detectors and nothing else, see
    `checkpoint.safe_config`; a config file is Python and runs.

    Args:
        source: the checkpoint, a path or a URL; with `weights` the config, a path or a name of
            the model zoo.
        weights: the checkpoint.
        config_file: the config, for a checkpoint without, as another way to say the same.
        overrides: changes of the config, such as "model.postprocess.max_detections=50".
        device: None for CUDA if there is any, else the CPU.
        batch_size: of pictures that go through the model together, at most.

    Raises:
        ValueError: there is no config, or there are no weights; says what to add.
        UnsafeConfigError: the config in the checkpoint asks for more than a model.
        UnfittingCheckpointError: the weights are those of another model.
        FileNotFoundError, UnsafeCheckpointError, DamagedCheckpointError: as `read_checkpoint`.
    """
    source = os.fspath(source)
    if weights is not None:
        if config_file is not None:
            raise ValueError(f"there are two configs: {source} and config_file={config_file}")
        config_file, source = source, os.fspath(weights)
    elif source.endswith(".py") or source in model_zoo.list_configs():
        raise ValueError(f"{source} is a config: add weights='/path/to/model.pth'")
    cfg, checkpoint = find_config(source, config_file, overrides)
    detector = build_detector(cfg, checkpoint, config_file=config_file, device=device)
    detector.batch_size = batch_size
    return detector


def build_detector(
    cfg: DictConfig,
    checkpoint: Checkpoint,
    categories: Sequence[Mapping[str, Any]] | None = None,
    *,
    config_file: str | None = None,
    device: str | torch.device | None = None,
) -> Detector:
    """A detector from what `loading.find_config` found.

    Args:
        cfg: a whole config.
        checkpoint: the weights.
        categories: id and name of its classes; None for those of `categories_for`.
        config_file: for messages.
        device: None for `train.device`, where that is there.

    Raises:
        UnfittingCheckpointError: the weights are those of another model.
    """
    min_size, max_size = test_resize(cfg)
    if min_size is None or max_size is None:
        usual = get_cfg().INPUT
        min_size, max_size = usual.MIN_SIZE_TEST, usual.MAX_SIZE_TEST
    wanted = device if device is not None else OmegaConf.select(cfg, "train.device")
    return Detector(
        build_trained(cfg, checkpoint, device_there_is(wanted), config_file),
        categories_for(cfg, checkpoint) if categories is None else categories,
        min_size=min_size,
        max_size=max_size,
        image_format=cfg.model.get("image_format", "RGB"),
        mirrored=trains_mirrored(cfg),
    )


def _in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
