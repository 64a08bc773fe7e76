"""Augmentation for views from above: pixels and boxes go together, colours change as stated."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from co_detr.data import DetectionMapper
from co_detr.data.aerial import (
    RandomColor,
    RandomTranspose,
    TransposeTransform,
    aerial_augmentation,
)


@pytest.fixture(autouse=True)
def fixed_randomness():
    np.random.seed(0)


def test_transposing_swaps_x_and_y_of_pixels_and_boxes():
    image = np.arange(24).reshape(2, 4, 3)
    transpose = TransposeTransform()
    assert transpose.apply_image(image)[3, 1].tolist() == image[1, 3].tolist()
    assert transpose.apply_box(np.array([[1.0, 0.0, 4.0, 2.0]])).tolist() == [[0, 1, 2, 4]]
    assert np.array_equal(transpose.inverse().apply_image(transpose.apply_image(image)), image)


def test_an_object_follows_its_pixels_into_all_eight_positions():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[1:3, 4:7] = 255
    flips = [T.RandomFlip(), T.RandomFlip(horizontal=False, vertical=True), RandomTranspose()]
    seen = set()
    for _ in range(100):
        augmented = T.AugInput(image, boxes=np.array([[4.0, 1.0, 7.0, 3.0]]))
        T.AugmentationList(flips)(augmented)
        x1, y1, x2, y2 = augmented.boxes[0].astype(int)
        assert (augmented.image[y1:y2, x1:x2] == 255).all()
        assert (augmented.image == 255).sum() == 18
        seen.add((x1, y1, x2, y2))
    assert len(seen) == 8


def test_colors_are_blends_with_black_the_mean_and_gray(monkeypatch):
    image = np.array([[[100, 50, 0], [0, 50, 200]]], dtype=np.uint8)  # mean 50, 50, 100
    color = RandomColor(0.5)

    def change(brightness, contrast, saturation):
        factors = np.array([brightness, contrast, saturation])
        monkeypatch.setattr(np.random, "uniform", lambda *_, **__: factors)
        return color.get_transform(image).apply_image(image)[0].tolist()

    assert change(1, 1, 1) == image[0].tolist()
    assert change(0.5, 1, 1) == [[50, 25, 0], [0, 25, 100]]
    assert change(1, 0.5, 1) == [[75, 50, 50], [25, 50, 150]]
    # gray: 0.299 * 100 + 0.587 * 50 = 59.25 and 0.587 * 50 + 0.114 * 200 = 52.15
    assert change(1, 1, 0) == [[59, 59, 59], [52, 52, 52]]
    assert change(2, 1, 1) == [[200, 100, 0], [0, 100, 255]]
    with pytest.raises(ValueError, match="amount"):
        RandomColor(1.5)


def test_crops_are_enlarged_squares():
    augmentations = T.AugmentationList(aerial_augmentation([20, 30], 60))
    sides = set()
    for _ in range(30):
        augmented = T.AugInput(np.zeros((40, 50, 3), dtype=np.uint8))
        transforms = augmentations(augmented)
        assert augmented.image.shape == (60, 60, 3)
        crop = next(t for t in transforms.transforms if isinstance(t, T.CropTransform))
        assert crop.w == crop.h
        sides.add(crop.w)
    assert sides == {20, 30}


def _record(tmp_path, boxes):
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    annotations = [{"bbox": b, "bbox_mode": 1, "category_id": i} for i, b in enumerate(boxes)]
    return {
        "file_name": str(tmp_path / "p.png"),
        "height": 40,
        "width": 40,
        "annotations": annotations,
    }


def test_objects_of_which_a_crop_leaves_too_little_are_left_out(tmp_path):
    # xywh; the crop shows columns 10 to 30: half of the first, a fifth of the second, all, nothing
    record = _record(tmp_path, [[5, 10, 10, 10], [2, 10, 10, 10], [12, 12, 4, 4], [35, 0, 5, 5]])
    crop = [T.CropTransform(10, 0, 20, 40), T.ResizeTransform(40, 20, 80, 40)]
    options = dict(is_train=True, augmentations=crop, image_format="RGB")
    kept = DetectionMapper(**options, min_visible=0.5)(record)["instances"]
    assert kept.gt_classes.tolist() == [0, 2]
    assert kept.gt_boxes.tensor.tolist() == [[0, 20, 10, 40], [4, 24, 12, 32]]
    assert DetectionMapper(**options)(record)["instances"].gt_classes.tolist() == [0, 1, 2]
    assert len(record["annotations"]) == 4
    empty = DetectionMapper(**options, min_visible=0.5)(_record(tmp_path, []))
    assert len(empty["instances"]) == 0
    with pytest.raises(ValueError, match="min_visible"):
        DetectionMapper(**options, min_visible=40)
