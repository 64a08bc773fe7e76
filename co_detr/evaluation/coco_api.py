"""`pycocotools`' evaluation of detections, computed by `hotcoco`: with the same results.

Compared bit by bit in tests/evaluation/test_equality.py.
"""

import contextlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any
from unittest import mock

import hotcoco
import pycocotools.cocoeval
from pycocotools.coco import COCO

# detectron2's module has one or both of them, the second in C++
_NAMES = ("COCOeval", "COCOeval_opt")


def COCOeval(coco_gt: COCO, coco_dt: COCO | Sequence[dict[str, Any]], iou_type: str) -> Any:
    """An evaluator as detectron2 uses it: `params`, `evaluate`, `accumulate`, `summarize`, `stats`,
    `eval`.

    It is `pycocotools`' own for keypoints, and where images or categories have names for ids.

    Args:
        coco_gt: annotations.
        coco_dt: detections as `coco_gt.loadRes` returns them, or takes them.
        iou_type: "bbox", "segm" or "keypoints".

    Raises:
        AssertionError: there are detections on images that the annotations do not have.
    """
    image_ids = {image["id"] for image in coco_gt.dataset["images"]}
    category_ids = {category["id"] for category in coco_gt.dataset["categories"]}
    numbered = all(type(i) is int and i >= 0 for i in image_ids | category_ids)
    if iou_type not in ("bbox", "segm") or not numbered:
        if not isinstance(coco_dt, COCO):
            with contextlib.redirect_stdout(None):
                # loadRes writes its own fields into the dicts it is given
                coco_dt = coco_gt.loadRes([dict(detection) for detection in coco_dt])
        return pycocotools.cocoeval.COCOeval(coco_gt, coco_dt, iou_type)
    truth = hotcoco.COCO(coco_gt.dataset)
    if isinstance(coco_dt, COCO):
        return hotcoco.COCOeval(truth, hotcoco.COCO(coco_dt.dataset), iou_type)
    unknown = {detection["image_id"] for detection in coco_dt} - image_ids
    assert not unknown, f"no such images in the annotations: {sorted(unknown, key=str)[:10]}"
    return hotcoco.COCOeval(truth, truth.load_res(list(coco_dt)), iou_type)


@contextlib.contextmanager
def used_in(module: ModuleType) -> Iterator[None]:
    """Inside, detectron2's module of `COCOEvaluator` evaluates by `COCOeval` of this one."""
    names = [name for name in _NAMES if hasattr(module, name)]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(module, name, COCOeval))
        yield
