"""COCO's AP of 5,000 images with 100 detections each: ours, by hotcoco, against pycocotools."""

import contextlib
from collections.abc import Iterator

import numpy as np
from benchmarks.measuring import Comparison
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from co_detr.evaluation import coco_api

IMAGES, OBJECTS, DETECTIONS, CLASSES = 5000, 7, 100, 80


def comparisons(images: int = IMAGES) -> Iterator[Comparison]:
    """One row: from a list of results to precision and recall, as `COCOEvaluator` does it."""
    content, results = random_results(images)
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(None):
        truth.createIndex()

    def ours() -> np.ndarray:
        return measured(coco_api.COCOeval(truth, results, "bbox"))

    def pycocotools() -> np.ndarray:
        with contextlib.redirect_stdout(None):
            found = truth.loadRes([dict(result) for result in results])
            return measured(COCOeval(truth, found, "bbox"))

    yield Comparison(
        f"AP of boxes, {images:,} images, {DETECTIONS} detections each",
        ("hotcoco", ours),
        ("pycocotools", pycocotools),
    )


def measured(evaluation: COCOeval) -> np.ndarray:
    """Precision by IoU, recall, class, size and number of detections."""
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"]


def random_results(images: int) -> tuple[dict, list[dict]]:
    """Annotations of images of 640x480, and detections, half of them close to an object."""
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for image_id in range(1, images + 1):
        boxes = np.hstack([rng.uniform(0, 300, (OBJECTS, 2)), rng.uniform(8, 200, (OBJECTS, 2))])
        classes = rng.integers(1, CLASSES + 1, OBJECTS)
        for box, label in zip(boxes.tolist(), classes.tolist()):
            row = {"image_id": image_id, "category_id": label, "bbox": box, "iscrowd": 0}
            annotations.append({**row, "id": len(annotations) + 1, "area": box[2] * box[3]})
        of = rng.integers(0, OBJECTS, DETECTIONS)
        spread = np.where(rng.random(DETECTIONS) < 0.5, 0.1, 1.0)[:, None]
        found = boxes[of] + rng.normal(0, 1, (DETECTIONS, 4)) * spread * boxes[of][:, [2, 3, 2, 3]]
        found[:, 2:] = np.maximum(found[:, 2:], 1)
        scores = rng.random(DETECTIONS).tolist()
        for box, label, score in zip(found.tolist(), classes[of].tolist(), scores):
            row = {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            results.append(row)
    content = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    return content, results
