"""What the page shows of a picture, without asking the model twice for the same."""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
from detectron2.structures import Instances

from co_detr.data import read_picture
from co_detr.inference.detector import Detector
from co_detr.inference.drawing import draw
from co_detr.inference.writers import to_annotations, to_coco
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.encoder_detector import EncoderDetector

from .heat import heat_map, kinds_of, with_heat

# Below, detections are not kept: there are always as many as the model has queries, and with masks
# they take a lot of memory.
LEAST_SCORE = 0.05
KEPT = 4  # of the last pictures, and of what was computed of them


@dataclass(frozen=True, eq=False)
class Found:
    """What a branch found in a picture.

    Attributes:
        instances: with scores of LEAST_SCORE or more, on the CPU.
        seconds: that it took.
    """

    instances: Instances
    seconds: float


@dataclass(frozen=True, eq=False)
class View:
    """What the page shows.

    Attributes:
        drawn: (h, w, 3) uint8 RGB, with boxes.
        instances: what is drawn, the highest scores first.
        num_found: how many there would be at LEAST_SCORE.
        seconds: that the model took, once for all thresholds.
    """

    drawn: np.ndarray
    instances: Instances
    num_found: int
    seconds: float


class Viewer:
    """A detector, and what it made of the last pictures.

    Args:
        detector: its model is given to the branch that is looked at.

    Attributes:
        branches: whose detections there are; none where the model does not say.
        branch: the one that the model was loaded with; "" if there is none.
        heat_maps: kinds of these that the model has.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.branches = list(getattr(detector.model, "branches", ()))
        self.branch = getattr(detector.model, "eval_branch", "")
        self.heat_maps = kinds_of(detector.model)
        self._read = lru_cache(KEPT)(read_picture)
        self._found = lru_cache(KEPT)(self._detect)
        self._heat = lru_cache(KEPT)(self._warm)
        self._lock = Lock()  # a model has one branch at a time

    def look(self, path: str, threshold: float, branch: str = "", heat: str = "") -> View:
        """Detect and draw.

        Args:
            path: of a picture; what is kept of it assumes that it stays as it is.
            threshold: least score, LEAST_SCORE to 1.
            branch: of `branches`; "" for the one the model was loaded with.
            heat: of `heat_maps`; "" for none.

        Raises:
            UnreadablePicture: the file is no picture.
        """
        branch = branch or self.branch
        with self._lock:
            image = self._read(path)
            found = self._found(path, branch)
            if heat:
                image = with_heat(image, self._heat(path, heat, branch))
        shown = found.instances[found.instances.scores >= threshold]
        shown = shown[shown.scores.argsort(descending=True)]
        drawn = draw(image, shown, self.detector.class_names)
        return View(drawn, shown, len(found.instances), found.seconds)

    def rows(self, instances: Instances) -> list[list[str | float]]:
        """Class, score and corners x1, y1, x2, y2 in pixels of each detection."""
        return [
            [self.detector.class_names[label], round(score, 3), *(round(v, 1) for v in box)]
            for label, score, box in zip(
                instances.pred_classes.tolist(),
                instances.scores.tolist(),
                instances.pred_boxes.tensor.tolist(),
            )
        ]

    def coco(self, path: str, instances: Instances) -> dict:
        """The detections of a picture as the content of a COCO file."""
        height, width = instances.image_size
        image = {"id": 1, "file_name": Path(path).name, "height": height, "width": width}
        categories = self.detector.categories
        return to_coco([image], to_annotations(instances, 1, categories), categories)

    def _detect(self, path: str, branch: str) -> Found:
        if branch:
            cast(CoDETR | EncoderDetector, self.detector.model).eval_branch = branch
        start = time.perf_counter()
        (instances,) = self.detector.predict([self._read(path)], LEAST_SCORE)
        return Found(instances, time.perf_counter() - start)

    def _warm(self, path: str, kind: str, branch: str) -> np.ndarray:
        return heat_map(self.detector, self._read(path), kind, branch)
