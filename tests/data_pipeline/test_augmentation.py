"""The augmentation of DETR: sizes it may produce, boxes that follow, awkward pictures."""

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from co_detr.data import RandomChoice, ResizeShortestEdge, detr_augmentation


@pytest.fixture(autouse=True)
def fixed_randomness():
    np.random.seed(0)


def _image(height, width):
    return np.random.randint(0, 256, (height, width, 3), dtype=np.uint8)


def test_random_choice_takes_each_sequence_equally_often():
    choice = RandomChoice([[T.NoOpTransform()], [T.HFlipTransform(8), T.HFlipTransform(8)]])
    lengths = [len(choice(T.AugInput(_image(4, 8)))) for _ in range(400)]
    assert set(lengths) == {1, 2}
    assert 160 < lengths.count(1) < 240


def test_random_choice_applies_the_sequence_in_order():
    choice = RandomChoice([[T.CropTransform(2, 0, 4, 3), T.HFlipTransform(4)]])
    image = _image(6, 8)
    aug_input = T.AugInput(image.copy(), boxes=np.array([[2.0, 0.0, 3.0, 2.0]]))
    choice(aug_input)
    assert np.array_equal(aug_input.image, image[0:3, 2:6][:, ::-1])
    assert aug_input.boxes.tolist() == [[3.0, 0.0, 4.0, 2.0]]


def test_random_choice_needs_something_to_choose_from():
    with pytest.raises(ValueError, match="at least one"):
        RandomChoice([])


def _draws(image, number=60):
    """Transform lists drawn for an image, as (names of the transforms, sizes after each)."""
    augmentations = T.AugmentationList(detr_augmentation())
    out = []
    for _ in range(number):
        aug_input = T.AugInput(image)
        transforms = augmentations(aug_input)
        out.append(([type(t).__name__ for t in transforms.transforms], transforms, aug_input))
    return out


def test_final_sizes_are_those_of_the_paper():
    for _, _, aug_input in _draws(_image(48, 64)):
        height, width = aug_input.image.shape[:2]
        assert max(height, width) <= 1333
        # Either the shorter side is one of the eleven, or the longer side has met its bound.
        assert min(height, width) in range(480, 801, 32) or max(height, width) == 1333


def test_half_of_the_draws_take_the_detour_through_a_crop():
    names = [names for names, _, _ in _draws(_image(48, 64), 200)]
    resizes = [draw.count("QuickResize") for draw in names]
    assert set(resizes) == {1, 2}
    assert 70 < resizes.count(2) < 130
    flips = sum("HFlipTransform" in draw for draw in names)
    assert 70 < flips < 130


def test_crops_lie_between_384_and_600_pixels_of_the_first_resize():
    for names, transforms, _ in _draws(_image(48, 64), 60):
        if "CropTransform" in names:
            first = transforms[names.index("QuickResize")]
            crop = transforms[names.index("CropTransform")]
            assert min(first.new_h, first.new_w) in (400, 500, 600)
            assert 384 <= crop.w <= 600 and 384 <= crop.h <= 600


def test_an_object_follows_its_pixels(tmp_path):
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[20:40, 30:60] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": 60,
        "width": 80,
        "annotations": [{"bbox": [30, 20, 60, 40], "bbox_mode": 0, "category_id": 3}],
    }
    augmentations = detr_augmentation([60, 90, 120], 240, [60, 90], 300, (40, 60))
    mapper = DatasetMapper(True, augmentations=augmentations, image_format="RGB")
    seen = 0
    for _ in range(60):
        example = mapper(record)
        bright = example["image"][0].numpy() > 127
        if not bright.any():
            assert len(example["instances"]) == 0
            continue
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert example["instances"].gt_boxes.tensor[0].tolist() == pytest.approx(expected, abs=3.1)
        assert example["instances"].gt_classes.tolist() == [3]
        seen += 1
    assert seen > 30


def test_strips_keep_a_pixel_of_their_shorter_side():
    # 1333 / 5000 of a pixel is less than half of one
    resize = ResizeShortestEdge(800, 1333).get_transform(_image(1, 5000))
    assert (resize.new_h, resize.new_w) == (1, 1333)


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (900, 3), (4000, 30), (1, 5000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_awkward_pictures_come_through(tmp_path, size, mode):
    height, width = size
    path = tmp_path / "a.png"
    Image.fromarray(_image(height, width)).convert(mode).save(path)
    record = {"file_name": str(path), "height": height, "width": width, "annotations": []}
    augmentations = detr_augmentation([16, 32], 64, [12, 20], 80, (10, 20))
    mapper = DatasetMapper(True, augmentations=augmentations, image_format="RGB")
    for _ in range(4):
        example = mapper(record)
        assert example["image"].shape[0] == 3 and min(example["image"].shape) >= 1
        assert len(example["instances"]) == 0
