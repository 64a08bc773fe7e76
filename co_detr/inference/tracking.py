"""Objects followed from frame to frame, by the library `trackers`."""

import inspect
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from .names import TRACKERS

NOT_TRACKED = -1
_THRESHOLDS = ("track_activation_threshold", "high_conf_det_threshold")


class Tracker:
    """Gives the detections of successive frames numbers that stay with their objects.

    Args:
        name: a key of `TRACKERS`.
        threshold: score from which on an object is followed. The library's own, up to 0.7, are for
            detectors that are surer of themselves than a DETR.
        tracker: one of your own, with supervision's `update(detections)`; instead of `name`.

    Raises:
        ImportError: `trackers` is not installed.
        ValueError: there is no tracker of that name.
    """

    def __init__(
        self, name: str = "bytetrack", threshold: float = 0.5, tracker: Any | None = None
    ) -> None:
        self._tracker = make_tracker(name, threshold) if tracker is None else tracker

    def __call__(self, instances: Instances) -> Instances:
        """The detections of the next frame with `track_ids` (n,), int64.

        An object that is not followed, or not yet, has `NOT_TRACKED`. Their order may change.
        """
        from supervision import Detections

        detections = Detections.from_detectron2({"instances": instances})
        detections.data["index"] = np.arange(len(instances))
        followed = self._tracker.update(detections)
        if not len(followed):  # it has lost its data, too
            result = instances[:0]
            result.track_ids = torch.zeros(0, dtype=torch.int64)
            return result
        result = instances[torch.as_tensor(followed.data["index"], dtype=torch.int64)]
        numbers = followed.tracker_id
        if numbers is None:
            numbers = np.full(len(result), NOT_TRACKED)
        result.track_ids = torch.as_tensor(numbers, dtype=torch.int64)
        result.pred_boxes = Boxes(torch.as_tensor(followed.xyxy).float())
        return result


def make_tracker(name: str, threshold: float = 0.5) -> Any:
    """One of the library's trackers, which takes scores from `threshold` on for sure.

    Raises: as `Tracker`.
    """
    if name not in TRACKERS:
        raise ValueError(f"no tracker {name!r}: there are {', '.join(TRACKERS)}")
    try:
        import trackers
    except ImportError as error:
        raise ImportError(
            'following objects needs trackers: pip install "co-detr[track]"'
        ) from error
    kind = getattr(trackers, TRACKERS[name])
    thresholds = set(_THRESHOLDS) & set(inspect.signature(kind).parameters)
    return kind(**dict.fromkeys(thresholds, threshold))
