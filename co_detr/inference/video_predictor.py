"""Detections in a video: drawn on its frames, and as lines of JSON."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from detectron2.structures import Instances

from .detector import Detector
from .drawing import draw
from .tracking import NOT_TRACKED
from .video import process_video

JSON_LINES = ".jsonl"


def video_targets(
    sources: Sequence[str], folder: Path, *, overwrite: bool = False
) -> dict[str, Path]:
    """Where the videos of some sources are written: under their own names, as .mp4.

    Raises:
        FileExistsError: one is there, or is a source, or two sources have one name.
    """
    targets: dict[str, Path] = {}
    read = {os.path.realpath(source) for source in sources}
    for source in sources:
        name = re.sub(r"\W", "_", source) if not os.path.isfile(source) else Path(source).stem
        target = folder / f"{name}.mp4"
        if os.path.realpath(target) in read:
            raise FileExistsError(f"{target} is read by this run: name another --output folder")
        if target in targets.values():
            raise FileExistsError(f"two videos would be written to {target}: one after the other")
        for path in (target, target.with_suffix(JSON_LINES)):
            if path.exists() and not overwrite:
                raise FileExistsError(
                    f"{path} is there already: name another --output, or add --overwrite"
                )
        targets[source] = target
    return targets


def predict_video(
    detector: Detector,
    source: str,
    target: Path,
    *,
    threshold: float = 0.5,
    track: Callable[[Instances], Instances] | None = None,
    batch_size: int | None = None,
    max_frames: int | None = None,
) -> int:
    """Write a video with what a detector finds, and beside it the same as text.

    The text has the video's name with `JSON_LINES`: a line per frame with its "frame" from 0 on,
    its "time" in seconds, and "detections", each with "class", "score", "bbox" (x, y, width, height
    in pixels of the source) and, if it is followed, "track". Neither grows in memory.

    Args:
        detector: as `load_detector` returns it.
        source: a file, or a camera by number, see `process_video`.
        target: an .mp4 file, written over.
        threshold: least score of what is drawn and written.
        track: numbers the objects, see `Tracker`; None for no numbers.
        batch_size: frames at once; None for the detector's.
        max_frames: end after as many; None for all.

    Returns:
        How many frames were written.
    """
    names = detector.class_names
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(JSON_LINES), "w") as lines:
        number = 0

        def process(frames: list[np.ndarray], times: list[float]) -> list[np.ndarray]:
            nonlocal number
            drawn = []
            found = detector.predict(frames, threshold, batch_size)
            for frame, time, instances in zip(frames, times, found):
                if track is not None:
                    instances = track(instances)
                _write_line(lines, number, time, instances, names)
                drawn.append(draw(frame, instances, names))
                number += 1
            return drawn

        return process_video(
            source,
            target,
            process,
            batch_size=batch_size or detector.batch_size,
            max_frames=max_frames,
        )


def _write_line(
    file: IO[str], number: int, time: float, instances: Instances, names: list[str]
) -> None:
    detections = []
    tracks = instances.track_ids.tolist() if instances.has("track_ids") else None
    for index, (x1, y1, x2, y2) in enumerate(instances.pred_boxes.tensor.tolist()):
        detection = {
            "class": names[int(instances.pred_classes[index])],
            "score": round(float(instances.scores[index]), 5),
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        }
        if tracks is not None and tracks[index] != NOT_TRACKED:
            detection["track"] = tracks[index]
        detections.append(detection)
    line = {"frame": number, "time": round(time, 4), "detections": detections}
    file.write(json.dumps(line) + "\n")
