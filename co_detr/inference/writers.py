"""Writes drawn pictures and COCO files, never onto a picture that is read or another run's file."""

import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances
from PIL import Image

from co_detr.engine.files import whole_file

from .formats import FORMATS
from .names import TOP_LEVEL

PREDICTIONS = "predictions.json"
DRAWN_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


class ResultWriter:
    """The files of a prediction run: pictures, `predictions.json`, and a results list if wanted.

    Args:
        folder: made where it does not exist.
        inputs: files that are read and must stay as they are, whatever links lead to them.
        categories: id and name of the classes.
        results: where to write a results list; None for none.
        formats: of `formats.FORMATS`, to be written beside `predictions.json`.
        overwrite: whether files of an earlier run may be replaced.

    Raises:
        FileExistsError: the folder holds the results of another run, or `results` is there, and
            `overwrite` is False; or `results` is one of the inputs.
        NotADirectoryError: `folder` is a file.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Iterable[Path],
        categories: list[dict],
        *,
        results: Path | None = None,
        formats: Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        self.folder, self.results, self.overwrite = folder, results, overwrite
        self.categories = categories
        self.formats = formats
        self._inputs = {_identity(path) for path in inputs} - {None}
        self._taken: set[Path] = set()
        self._done: list[tuple[dict, list[dict], list[dict]]] = []
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"--output {folder} is a file: name a folder")
        others = [folder / name for kind in formats for name in TOP_LEVEL[kind]]
        for path in filter(None, (folder / PREDICTIONS, results, *others)):
            if self._is_input(path):
                raise FileExistsError(f"{path} is read by this run: name another file to write to")
            if path.is_dir() and path not in others:
                raise IsADirectoryError(f"{path} is a folder: name a file")
            if path.exists() and not overwrite:
                raise FileExistsError(
                    f"{path} holds the results of another run: name another place, or add "
                    "--overwrite to replace them"
                )
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def num_pictures(self) -> int:
        """How many pictures were added."""
        return len(self._done)

    def picture_path(self, path: Path) -> Path:
        """Where to draw a picture: under its own name, numbered where that name is taken."""
        suffix = path.suffix if path.suffix.lower() in DRAWN_SUFFIXES else ".png"
        candidate, number = self.folder / f"{path.stem}{suffix}", 2
        while self._is_taken(candidate):
            candidate, number = self.folder / f"{path.stem}_{number}{suffix}", number + 1
        self._taken.add(candidate)
        return candidate

    def add(
        self, path: Path, image_id: Any, drawn: np.ndarray, instances: Instances, least_score: float
    ) -> None:
        """Write a drawn picture, and note its detections.

        Args:
            path: the picture that was read.
            image_id: its id in the files.
            drawn: (h, w, 3) uint8 RGB.
            instances: all detections; a results list has all of them, as an evaluation wants.
            least_score: of those that go into `predictions.json`.
        """
        target = self.picture_path(path)
        content = io.BytesIO()
        Image.fromarray(drawn).save(content, DRAWN_SUFFIXES[target.suffix.lower()])
        with whole_file(str(target), "wb") as file:
            file.write(content.getvalue())
        height, width = instances.image_size
        image = {"id": image_id, "file_name": str(path), "height": height, "width": width}
        found = to_annotations(instances, image_id, self.categories)
        kept = (instances.scores >= least_score).tolist()
        shown = [annotation for annotation, keep in zip(found, kept) if keep]
        # in one step, so that an interruption leaves no image without its detections
        self._done.append((image, shown, found if self.results is not None else []))

    def finish(self) -> None:
        """Write what was noted so far, each file whole or not at all."""
        annotations = [annotation for _, shown, _ in self._done for annotation in shown]
        content = to_coco([image for image, _, _ in self._done], annotations, self.categories)
        with whole_file(str(self.folder / PREDICTIONS)) as file:
            json.dump(content, file, indent=1)
        if self.results is not None:
            self.results.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(str(self.results)) as file:
                json.dump([to_result(a) for _, _, found in self._done for a in found], file)
        for name in self.formats:
            for relative, text in FORMATS[name](content).items():
                path = self.folder / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(str(path)) as file:
                    file.write(text)

    def _is_input(self, path: Path) -> bool:
        return _identity(path) in self._inputs

    def _is_taken(self, path: Path) -> bool:
        if path in self._taken or self._is_input(path):
            return True
        return not self.overwrite and os.path.lexists(path)


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def to_coco(images: list[dict], annotations: list[dict], categories: list[dict]) -> dict:
    """The content of a COCO file, with its annotations numbered from 1."""
    numbered = [{"id": number, **a} for number, a in enumerate(annotations, start=1)]
    return {"images": images, "categories": categories, "annotations": numbered}


def to_annotations(instances: Instances, image_id: Any, categories: list[dict]) -> list[dict]:
    """Detections as COCO annotations (bbox: x, y, width, height in pixels) with a score, and with
    run-length masks where there are any."""
    annotations = []
    for box, score, label in zip(
        instances.pred_boxes.tensor.tolist(),
        instances.scores.tolist(),
        instances.pred_classes.tolist(),
    ):
        width, height = box[2] - box[0], box[3] - box[1]
        annotations.append(
            {
                "image_id": image_id,
                "category_id": categories[label]["id"],
                "bbox": [round(v, 2) for v in (box[0], box[1], width, height)],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": round(score, 5),
            }
        )
    if instances.has("pred_masks"):
        for annotation, mask in zip(annotations, instances.pred_masks.numpy()):
            encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotation["area"] = float(mask_util.area(encoded))
            annotation["segmentation"] = encoded | {"counts": encoded["counts"].decode("ascii")}
    return annotations


def to_result(annotation: dict) -> dict:
    """What COCO's results format has of an annotation."""
    keys = ("image_id", "category_id", "bbox", "segmentation", "score")
    return {key: annotation[key] for key in keys if key in annotation}
