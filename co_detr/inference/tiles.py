"""Large pictures in overlapping tiles, each as large as what the detector was trained on."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from co_detr.inference.detector import Detector

Detect = Callable[[Sequence[np.ndarray]], list[Instances]]


def detect_in_tiles(
    detect: Detect,
    picture: np.ndarray,
    *,
    tile: int = 640,
    overlap: int = 128,
    iou_threshold: float = 0.5,
    batch_size: int = 1,
) -> Instances:
    """Detect in every tile, and merge what several tiles found by NMS within each class.

    Args:
        detect: pictures (h, w, 3) uint8 RGB to their detections, as `load_detector` returns it.
        picture: (H, W, 3) uint8 RGB.
        tile: sides in pixels; those at the right and lower border are smaller.
        overlap: of neighbours, in pixels: more than the largest objects have, so that each is whole
            in one of them.
        iou_threshold: of the NMS.
        batch_size: tiles at once.

    Returns:
        Detections in the whole picture, best first.

    Raises:
        ImportError: supervision is not installed.
        ValueError: tiles do not overlap, or do nothing else.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"overlap {overlap} has to be less than the tile's {tile} pixels, and >= 0"
        )
    try:
        from supervision import Detections, InferenceSlicer
    except ImportError as error:
        raise ImportError('tiles need supervision: pip install "co-detr[draw]"') from error

    def detect_some(tiles: Any) -> Any:
        """Detections of a list of tiles; of a single one if the slicer sends one at a time."""
        if isinstance(tiles, np.ndarray):
            return detect_some([tiles])[0]
        return [
            Detections.from_detectron2({"instances": found.to("cpu")}) for found in detect(tiles)
        ]

    slicer = InferenceSlicer(
        detect_some,
        slice_wh=tile,
        overlap_wh=overlap,
        iou_threshold=iou_threshold,
        batch_size=batch_size,
    )
    found = slicer(picture)
    scores = np.empty(0) if found.confidence is None else found.confidence
    found = cast(Detections, found[np.argsort(-scores, kind="stable")])
    instances = Instances(picture.shape[:2])
    instances.pred_boxes = Boxes(torch.as_tensor(found.xyxy).float().view(-1, 4))
    instances.scores = torch.as_tensor(found.confidence if len(found) else []).float()
    instances.pred_classes = torch.as_tensor(found.class_id if len(found) else []).long()
    if found.mask is not None:
        instances.pred_masks = torch.as_tensor(np.asarray(found.mask))
    return instances


def check_tiles(tile: int, overlap: int) -> None:
    """Raise ValueError where tiles do not overlap, or do nothing else."""
    if not 0 <= overlap < tile:
        raise ValueError(
            f"an overlap of {overlap} pixels does not go with tiles of {tile}: it has to be less"
        )


class TiledDetector(Detector):
    """A loaded detector that looks at pictures in tiles, see `detect_in_tiles`.

    Args:
        detector: stays as it is; `batch_size` counts tiles.
        tile, overlap, iou_threshold: see `detect_in_tiles`.
    """

    def __init__(
        self, detector: Detector, *, tile: int = 640, overlap: int = 128, iou_threshold: float = 0.5
    ) -> None:
        check_tiles(tile, overlap)
        super().__init__(
            detector.model,
            detector.categories,
            min_size=detector.min_size,
            max_size=detector.max_size,
            image_format=detector.image_format,
            mirrored=detector.mirrored,
            batch_size=detector.batch_size,
        )
        self.tile, self.overlap, self.iou_threshold = tile, overlap, iou_threshold

    def predict(
        self,
        images: Sequence[np.ndarray],
        threshold: float = 0.0,
        batch_size: int | None = None,
    ) -> list[Instances]:
        """As `Detector.predict`."""
        size = batch_size or self.batch_size

        def detect(tiles: Sequence[np.ndarray]) -> list[Instances]:
            return super(TiledDetector, self).predict(tiles, threshold, size)

        return [
            detect_in_tiles(
                detect,
                image,
                tile=self.tile,
                overlap=self.overlap,
                iou_threshold=self.iou_threshold,
                batch_size=size,
            )
            for image in images
        ]
