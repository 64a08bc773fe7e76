"""Objects transformed together are those that detectron2's functions give one by one."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from co_detr.data import large_scale_jitter
from co_detr.data.objects import transformed_objects

SIZE = (60, 80)  # height, width


def _one_by_one(annotations, transforms, image_size, masks, recompute_boxes):
    """By detectron2's functions; bitmaps are drawn in the file's image."""
    transformed = []
    for annotation in copy.deepcopy(annotations):
        if not masks:
            annotation.pop("segmentation")
        elif isinstance(annotation["segmentation"], list):
            runs = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], *SIZE))
            annotation["segmentation"] = runs
        transformed.append(
            detection_utils.transform_instance_annotations(annotation, transforms, image_size)
        )
    objects = detection_utils.annotations_to_instances(transformed, image_size, "bitmask")
    if recompute_boxes and annotations:
        objects.gt_boxes = objects.gt_masks.get_bounding_boxes()
    return detection_utils.filter_empty_instances(objects)


def _annotation(rng):
    """A random polygon, or two, with their box; every third one as run lengths."""
    height, width = SIZE
    center, extent = rng.uniform(0, (width, height)), np.exp(rng.uniform(-1, 3.5))
    polygons = [
        (center + rng.uniform(-extent, extent, (rng.integers(3, 9), 2))).clip(0, (width, height))
        for _ in range(rng.integers(1, 3))
    ]
    points = np.concatenate(polygons)
    low, high = points.min(0), points.max(0)
    segmentation = [polygon.ravel().tolist() for polygon in polygons]
    if rng.integers(3) == 0:
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *SIZE))
    return {
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(rng.integers(80)),
        "segmentation": segmentation,
    }


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("masks, recompute_boxes", [(False, False), (True, False), (True, True)])
def test_they_are_the_same_as_one_by_one(number, masks, recompute_boxes):
    rng = np.random.default_rng(number)
    for seed in range(6):
        annotations = [_annotation(rng) for _ in range(number)]
        before = copy.deepcopy(annotations)
        np.random.seed(seed)
        augmented = T.AugInput(np.zeros((*SIZE, 3), np.uint8))
        transforms = T.AugmentationList(large_scale_jitter(64))(augmented)
        mask_size = SIZE if masks else None
        ours = transformed_objects(
            annotations,
            transforms,
            (64, 64),
            mask_size=mask_size,
            recompute_boxes=recompute_boxes,
        )
        theirs = _one_by_one(annotations, transforms, (64, 64), masks, recompute_boxes)
        assert annotations == before
        assert ours.get_fields().keys() == theirs.get_fields().keys()
        assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
        assert torch.equal(ours.gt_classes, theirs.gt_classes)
        if masks and number:
            assert torch.equal(ours.gt_masks.tensor, theirs.gt_masks.tensor)


def _square(x, y, side, **more):
    outline = [x, y, x + side, y, x + side, y + side, x, y + side]
    box = {"bbox": [x, y, side, side], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    return {**box, "segmentation": [outline], **more}


def test_what_a_crop_leaves_of_objects():
    # of three squares, the crop shows one whole, the left quarter of the next, nothing of the last
    squares = [_square(10, 10, 8), _square(28, 10, 8), _square(60, 40, 8)]
    crop = T.CropTransform(0, 0, 30, 30, orig_w=80, orig_h=60)
    objects = transformed_objects(squares, crop, (30, 30), mask_size=SIZE, recompute_boxes=True)
    assert objects.gt_boxes.tensor.tolist() == [[10, 10, 18, 18], [28, 10, 30, 18]]
    assert objects.gt_masks.tensor.flatten(1).sum(1).tolist() == [64, 16]


def test_the_ninth_mask_is_in_a_map_of_its_own():
    squares = [_square(8 * i, 8 * i % 50, 4) for i in range(9)]
    objects = transformed_objects(squares, T.NoOpTransform(), SIZE, mask_size=SIZE)
    for mask, square in zip(objects.gt_masks.tensor, squares, strict=True):
        x, y, side, _ = square["bbox"]
        assert mask.sum() == mask[y : y + side, x : x + side].sum() == 16


def test_masks_of_another_size_are_refused():
    runs = mask_util.merge(mask_util.frPyObjects([[0, 0, 5, 0, 5, 5]], 30, 30))
    with pytest.raises(ValueError, match=r"size \[30, 30\], its image \[60, 80\]"):
        transformed_objects(
            [_square(0, 0, 5, segmentation=runs)], T.NoOpTransform(), SIZE, mask_size=SIZE
        )


def test_padding_by_a_label_is_refused():
    pad = T.PadTransform(0, 0, 4, 4, seg_pad_value=7)
    with pytest.raises(ValueError, match="pads masks with 7: set seg_pad_value=0"):
        transformed_objects([_square(0, 0, 5)], pad, (64, 84), mask_size=SIZE)
