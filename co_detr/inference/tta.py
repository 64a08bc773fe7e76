"""Test-time augmentation: looking at a picture in several sizes and mirrored, and merging.

The paper evaluates its largest models so (Section 4.3: "evaluated with test-time augmentation").
"""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from co_detr.checkpoint.model_card import test_resize, trains_mirrored
from co_detr.inference.detector import Detector
from co_detr.inference.fusion import Fusion, Suppressing

DEFAULT_SCALES = (0.8, 1.0, 1.25)
_PREFIX = "model."


class WithTestTimeAugmentation(nn.Module):
    """A detector that looks at every picture in several sizes and, if wanted, mirrored.

    In training it is the detector itself, and its weights have the detector's names, so that a
    config may say `model = L(WithTestTimeAugmentation)(model=model)` and checkpoints fit as before.

    Pictures are resized from what comes in. Evaluation on files gives it whole pictures with
    `dataloader.test.mapper.augmentations=[]`; the size that the detector was made for is then
    `short_edge_length` and `max_size` here.

    Args:
        model: returns detections in each input's "height" and "width", as detectron2's models do.
        scales: factors of the size that `short_edge_length` and `max_size` give.
        flip: also mirrored from left to right, for models that were trained so: others take a
            mirrored 2 for a 5.
        short_edge_length: shorter side in pixels at scale 1, as in `ResizeShortestEdge`; None takes
            pictures as they come in.
        max_size: bound on the longer side at scale 1.
        fusion: of the views' detections.
        max_detections: kept per picture; None for as many as the detector keeps.

    Raises:
        ValueError: there are no scales, or one that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scales: Sequence[float] = DEFAULT_SCALES,
        flip: bool = True,
        short_edge_length: int | None = None,
        max_size: int | None = None,
        fusion: Fusion | None = None,
        max_detections: int | None = None,
    ) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales has to hold positive factors, got {list(scales)}")
        self.model = model
        self.scales = tuple(scales)
        self.flip = flip
        self.short_edge_length = short_edge_length
        self.max_size = max_size
        self.fusion = Suppressing() if fusion is None else fusion
        self.max_detections = max_detections
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.model.device)

    @torch.no_grad()
    def detect(self, batched_inputs: list[dict]) -> list[dict]:
        """Detections of all views, merged: per picture a dict with "instances", best first."""
        views = [self._detect_in(view, mirrored) for view, mirrored in self._views(batched_inputs)]
        return [{"instances": self._merge(of_picture)} for of_picture in zip(*views)]

    def forward(self, batched_inputs: list[dict]) -> list[dict] | dict[str, Tensor]:
        """Losses in training, else `detect`.

        Args:
            batched_inputs: as the detector takes them; "image" (3, h, w) of 0..255.
        """
        return self.model(batched_inputs) if self.training else self.detect(batched_inputs)

    def _views(self, batched_inputs: list[dict]) -> Iterator[tuple[list[dict], bool]]:
        """The batch in every size that is not there twice, and whether it is mirrored."""
        seen = set()
        for scale in self.scales:
            sizes = [self.size_at(scale, tuple(x["image"].shape[-2:])) for x in batched_inputs]
            if tuple(sizes) in seen:
                continue
            seen.add(tuple(sizes))
            resized = [resize(x["image"], size) for x, size in zip(batched_inputs, sizes)]
            for mirrored in (False, True) if self.flip else (False,):
                yield [
                    {
                        "image": image.flip(-1) if mirrored else image,
                        "height": x.get("height", x["image"].shape[-2]),
                        "width": x.get("width", x["image"].shape[-1]),
                    }
                    for x, image in zip(batched_inputs, resized)
                ], mirrored

    def size_at(self, scale: float, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at a scale of a picture of (height, width); it fits a model's canvas."""
        height, width = size
        canvas = getattr(self.model, "canvas", None) or math.inf
        shorter = scale * (self.short_edge_length or min(size))
        longer = min(scale * (self.max_size or math.inf), canvas)
        return T.ResizeShortestEdge.get_output_shape(height, width, shorter, longer)

    def _detect_in(self, view: list[dict], mirrored: bool) -> list[Instances]:
        found = [output["instances"] for output in self.model(view)]
        return [flipped(instances) for instances in found] if mirrored else found

    def _merge(self, views: Sequence[Instances]) -> Instances:
        merged = views[0] if len(views) == 1 else self.fusion(views)
        limit = self.max_detections
        if limit is None:
            limit = max(len(instances) for instances in views)
        return merged[:limit]


def augmented(
    detector: Detector,
    scales: Sequence[float] = DEFAULT_SCALES,
    flip: bool | None = None,
    fusion: Fusion | None = None,
) -> Detector:
    """A loaded detector with test-time augmentation, which starts from whole pictures.

    Args:
        detector: stays as it is.
        scales: factors of the size that it resizes pictures to.
        flip: also mirrored; None for what it was trained on.
        fusion: None for `Suppressing()`.
    """
    model = WithTestTimeAugmentation(
        detector.model,
        scales=scales,
        flip=detector.mirrored if flip is None else flip,
        short_edge_length=detector.min_size or None,
        max_size=detector.max_size if detector.min_size else None,
        fusion=fusion,
    )
    return Detector(
        model,
        detector.categories,
        min_size=0,
        image_format=detector.image_format,
        mirrored=detector.mirrored,
        batch_size=detector.batch_size,
    )


def augment_evaluation(model: nn.Module, cfg: DictConfig) -> nn.Module:
    """A config's model with test-time augmentation, and the config's pictures left whole for it."""
    min_size, max_size = test_resize(cfg)
    cfg.dataloader.test.mapper.augmentations = []
    return WithTestTimeAugmentation(
        model,
        flip=trains_mirrored(cfg),
        short_edge_length=min_size or None,
        max_size=max_size or None,
    )


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) of 0..255 to (3, *size) uint8, by the resize of the data pipeline."""
    height, width = image.shape[-2:]
    pixels = image.round().clamp(0, 255).to(torch.uint8) if image.is_floating_point() else image
    if (height, width) == size:
        return pixels
    array = pixels.permute(1, 2, 0).cpu().numpy()
    resized = T.ResizeTransform(height, width, *size).apply_image(array)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(image.device)


def flipped(instances: Instances) -> Instances:
    """Detections in the mirror image of theirs: boxes, and masks where there are any."""
    width = instances.image_size[1]
    mirrored = Instances(instances.image_size, **instances.get_fields())
    x1, y1, x2, y2 = instances.pred_boxes.tensor.unbind(-1)
    mirrored.pred_boxes = Boxes(torch.stack([width - x2, y1, width - x1, y2], dim=-1))
    if instances.has("pred_masks"):
        mirrored.pred_masks = instances.pred_masks.flip(-1)
    return mirrored


def _drop_prefix(
    _: nn.Module, state_dict: dict[str, Tensor], prefix: str, __: dict[str, object]
) -> None:
    for name in [name for name in state_dict if name.startswith(prefix + _PREFIX)]:
        state_dict[prefix + name[len(prefix + _PREFIX) :]] = state_dict.pop(name)


def _add_prefix(_: nn.Module, state_dict: dict[str, Tensor], prefix: str, *__: object) -> None:
    for name in [name for name in state_dict if name.startswith(prefix)]:
        state_dict[prefix + _PREFIX + name[len(prefix) :]] = state_dict.pop(name)
