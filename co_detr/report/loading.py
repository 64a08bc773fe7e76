"""Annotations and predictions as files have them, made ready for `hotcoco`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotcoco

from co_detr.data.annotations import is_box, read_annotations
from co_detr.data.dataset import file_name_of
from co_detr.data.values import is_finite
from co_detr.evaluation.lvis_api import LVIS, LVISResults

# the key from which the area of a detection must not be taken
_OTHER = {"bbox": "segmentation", "segm": "bbox"}
MAX_DETECTIONS = {"coco": 100, "lvis": 300}


@dataclass(frozen=True, eq=False)
class Problem:
    """Annotations, and detections on them.

    Attributes:
        truth: the annotations; ids of images and annotations are numbers, whatever the file has.
        found: all detections, with their `area`, numbered from 1.
        files: image id -> where its picture is in their folder.
        names: category id -> name, in the order of classes.
        frequencies: category id -> "r", "c" or "f"; LVIS only, else empty.
        iou_type: "bbox" or "segm".
        rules: "coco" or "lvis".
    """

    truth: hotcoco.COCO
    found: hotcoco.COCO
    files: dict[int, str]
    names: dict[int, str]
    frequencies: dict[int, str]
    iou_type: str
    rules: str

    def evaluated(self, found: hotcoco.COCO | None = None) -> hotcoco.COCOeval:
        """The evaluation, accumulated, of all detections or of some."""
        found = self.found if found is None else found
        run = hotcoco.COCOeval(self.truth, found, self.iou_type, lvis_style=self.rules == "lvis")
        run.evaluate()
        run.accumulate()
        return run

    def above(self, thresholds: dict[int, float]) -> hotcoco.COCO:
        """Detections that score at least the threshold of their category; none where it has
        none."""
        other = _OTHER[self.iou_type]
        kept = [
            {key: value for key, value in detection.items() if key != other}
            for detection in self.found.dataset["annotations"]
            if detection["score"] >= thresholds.get(detection["category_id"], float("inf"))
        ]
        return self.truth.load_res(kept)


def read_problem(
    annotations: Path, predictions: Path, iou_type: str = "bbox", rules: str = "coco"
) -> Problem:
    """Read an annotation file, repaired as for training, and a list of results.

    Args:
        annotations: a COCO- or LVIS-format file.
        predictions: a JSON list of results as COCO defines them, with the ids of `annotations`.
        iou_type: "bbox" or "segm".
        rules: "coco", or "lvis" for its federated evaluation.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not what it should be, or they do not fit together.
    """
    file = read_annotations(str(annotations), rules, any_ids=True)
    content = file.truth()
    if iou_type == "segm" and not all("segmentation" in a for a in content["annotations"]):
        raise ValueError(f"{annotations} has no masks to evaluate: leave out --iou-type segm")
    named = any(isinstance(image["id"], str) for image in content["images"])
    images = sorted(content["images"], key=lambda i: str(i["id"]) if named else i["id"])
    numbers = {image["id"]: number for number, image in enumerate(images, start=1)}
    classes = {category_id: number for number, category_id in enumerate(file.class_ids, start=1)}
    content = {
        **content,
        "images": [_numbered(image, numbers, classes) for image in images],
        "categories": [{**c, "id": classes[c["id"]]} for c in file.categories],
        "annotations": [
            {**a, "id": n, "image_id": numbers[a["image_id"]]}
            | {"category_id": classes[a["category_id"]]}
            for n, a in enumerate(content["annotations"], start=1)
        ],
    }
    results = [
        {**result, "image_id": numbers[result["image_id"]]}
        | {"category_id": classes[result["category_id"]]}
        for result in read_results(predictions, numbers, classes, iou_type)
    ]
    try:
        if rules == "lvis":
            limited = LVISResults(LVIS(content), results, MAX_DETECTIONS["lvis"])
            truth, found = limited.truth, limited.detections
        else:
            truth = hotcoco.COCO(content)
            found = truth.load_res(results)
    except ValueError as error:
        raise ValueError(f"{predictions} does not fit {annotations}: {error}") from error
    return Problem(
        truth=truth,
        found=found,
        files={image["id"]: file_name_of(image, rules) for image in content["images"]},
        names={classes[c["id"]]: str(c["name"]) for c in file.categories},
        frequencies={classes[c["id"]]: c["frequency"] for c in file.categories if rules == "lvis"},
        iou_type=iou_type,
        rules=rules,
    )


def _numbered(image: dict[str, Any], numbers: dict, classes: dict) -> dict[str, Any]:
    lists = {
        key: [classes[i] for i in image[key] if i in classes]
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
        if image.get(key) is not None
    }
    return {**image, **lists, "id": numbers[image["id"]]}


def read_results(path: Path, images: dict, categories: dict, iou_type: str) -> list[dict[str, Any]]:
    """A list of results, checked against ids of images and categories; each with its score and with
    its box or mask only."""
    if not path.is_file():
        raise FileNotFoundError(f"no predictions at {path}")
    try:
        results = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    what = "segmentation" if iou_type == "segm" else "bbox"
    needed = ("image_id", "category_id", "score", what)
    if not isinstance(results, list) or any(not isinstance(r, dict) for r in results):
        raise ValueError(
            f"{path} is no list of results: an evaluation writes one "
            "(coco_instances_results.json), and so does tools/predict.py --results"
        )
    for number, result in enumerate(results):
        if missing := [key for key in needed if key not in result]:
            raise ValueError(f"{path}: result number {number} has no {missing[0]}")
        for key, known in (("image_id", images), ("category_id", categories)):
            if not isinstance(result[key], int | str) or result[key] not in known:
                raise ValueError(
                    f"{path}: result number {number} has {key} {result[key]!r}, which the "
                    "annotations do not have: are they those of the same data set?"
                )
        score = result["score"]
        if not isinstance(score, int | float) or not is_finite(score):
            raise ValueError(
                f"{path}: result number {number} has the score {score!r:.80}, which must be a "
                "finite number"
            )
        if what == "bbox" and not is_box(result["bbox"]):
            raise ValueError(
                f"{path}: result number {number} has the bbox {result['bbox']!r:.80}, which must "
                "be four finite numbers x, y, width, height in pixels"
            )
    return [{key: result[key] for key in needed} for result in results]
