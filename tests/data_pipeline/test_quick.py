"""Quick transforms give the pictures, masks and draws of detectron2's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T

from co_detr.data import RandomChoice, ResizeShortestEdge, detr_augmentation, large_scale_jitter
from co_detr.data.augmentation import ResizeScale
from co_detr.data.large_scale_jitter import PAD_VALUE
from co_detr.data.quick import QuickPad, QuickResize, ResizedCrop


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _unrounded(image, height, width):
    """The antialiased bilinear filter on float64, without rounding between its two passes."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double()
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


SIZES = [
    ((480, 640), (800, 1067)),
    ((480, 640), (432, 576)),
    ((357, 241), (293, 217)),
    ((427, 640), (48, 64)),
    ((1, 1), (32, 32)),
    ((1, 500), (2, 133)),
    ((300, 2), (71, 2)),
    ((2, 300), (2, 71)),
]


@pytest.mark.parametrize("before, after", SIZES)
@pytest.mark.parametrize("flipped", [False, True])
def test_resized_pictures_differ_from_pillows_by_rounding_only(before, after, flipped):
    image = _noise(*before)[:, :: -1 if flipped else 1]
    exact = _unrounded(image, *after)
    # Rounding by 1/2 after each of two passes, whose weights add up to 1, makes 1 at most. Weights
    # of 15 bits, of which the last is uncertain by half, add less than 0.1 here.
    for transform, rounding in ((T.ResizeTransform, 1.0), (QuickResize, 1.1)):
        resized = transform(*before, *after).apply_image(image)
        assert resized.dtype == np.uint8 and resized.shape == exact.shape
        assert np.abs(resized - exact).max() <= rounding + 1e-4


def test_a_plain_picture_keeps_its_values():
    for value in (0, 1, 127, 254, 255):
        image = np.full((37, 53, 3), value, np.uint8)
        for size in ((91, 131), (11, 17)):
            assert (QuickResize(37, 53, *size).apply_image(image) == value).all()


@pytest.mark.parametrize("kind", ["gray", "one channel", "float", "nearest"])
def test_what_is_no_picture_is_resized_by_detectron2(kind):
    image, interp = _noise(20, 30), None
    if kind == "gray":
        image = image[:, :, 0]
    elif kind == "one channel":
        image = image[:, :, :1]
    elif kind == "float":
        image = image.astype(np.float32)
    else:
        interp = 0
    sizes = (20, 30, 33, 47)
    expected = T.ResizeTransform(*sizes).apply_image(image, interp)
    assert np.array_equal(QuickResize(*sizes).apply_image(image, interp), expected)


@pytest.mark.parametrize("size", [(1, 1), (71, 1), (1, 71)])
@pytest.mark.parametrize("flipped", [False, True])
def test_strips_are_resized_by_detectron2(size, flipped):
    image = _noise(20, 30)[:, :: -1 if flipped else 1]
    expected = T.ResizeTransform(20, 30, *size).apply_image(image)
    assert np.array_equal(QuickResize(20, 30, *size).apply_image(image), expected)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(AssertionError):
        QuickResize(20, 31, 40, 40).apply_image(_noise(20, 30))


@pytest.mark.parametrize("kind", ["picture", "flipped", "gray", "float"])
def test_a_crop_of_a_resized_picture_has_the_same_values_alone(kind):
    rng = np.random.default_rng(0)
    for _ in range(25):
        h, w, new_h, new_w = map(int, np.exp(rng.uniform(0, 5, 4)))
        crop_h, crop_w = int(rng.integers(1, new_h + 1)), int(rng.integers(1, new_w + 1))
        x0, y0 = int(rng.integers(new_w - crop_w + 1)), int(rng.integers(new_h - crop_h + 1))
        image = _noise(h, w, seed=h)
        if kind == "flipped":
            image = image[:, ::-1]
        elif kind == "gray":
            image = image[:, :, 0]
        elif kind == "float":
            image = image.astype(np.float32)
        resize = T.ResizeTransform(h, w, new_h, new_w)
        crop = T.CropTransform(x0, y0, crop_w, crop_h, orig_w=new_w, orig_h=new_h)
        whole = QuickResize(h, w, new_h, new_w).apply_image(image)
        ours = ResizedCrop(resize, crop)
        assert np.array_equal(ours.apply_image(image), crop.apply_image(whole))
        both = T.TransformList([resize, crop])
        mask = np.ascontiguousarray(image.reshape(h, w, -1)[:, :, 0])
        assert np.array_equal(ours.apply_segmentation(mask), both.apply_segmentation(mask))
        points = rng.uniform(0, w, (3, 2))
        assert np.array_equal(ours.apply_coords(points.copy()), both.apply_coords(points.copy()))
        moved = both.apply_coords(points.copy())
        assert ours.inverse().apply_coords(moved) == pytest.approx(points)


@pytest.mark.parametrize("image", [_noise(5, 4), _noise(5, 4)[:, ::-1], _noise(5, 4)[:, :, 0]])
@pytest.mark.parametrize("borders", [(0, 0, 3, 2), (1, 2, 0, 0), (0, 0, 0, 0)])
def test_padded_pictures_are_detectron2s(image, borders):
    options = {"pad_value": 114.0, "seg_pad_value": 255}
    ours, theirs = QuickPad(*borders, **options), T.PadTransform(*borders, **options)
    assert np.array_equal(ours.apply_image(image), theirs.apply_image(image))
    mask = image[:, :, 0] if image.ndim == 3 else image
    assert np.array_equal(ours.apply_segmentation(mask), theirs.apply_segmentation(mask))
    assert np.array_equal(ours.apply_coords(np.ones((2, 2))), theirs.apply_coords(np.ones((2, 2))))


def _plain_detr():
    def resize(sides, bound):
        return ResizeShortestEdge(sides, bound, sample_style="choice")

    sides = list(range(480, 801, 32))
    zoom = [resize([400, 500, 600], 4200), T.RandomCrop("absolute_range", (384, 600))]
    choices = [[resize(sides, 1333)], [*zoom, resize(sides, 1333)]]
    return [T.RandomFlip(prob=0.5), RandomChoice(choices)]


def _plain_jitter():
    return [
        ResizeScale(0.1, 2.0, 256, 256),
        T.RandomCrop("absolute", (256, 256)),
        T.RandomFlip(prob=0.5),
        T.FixedSizeCrop((256, 256), pad=True, pad_value=PAD_VALUE, seg_pad_value=0),
    ]


@pytest.mark.parametrize(
    "ours, plain",
    [(detr_augmentation, _plain_detr), (lambda: large_scale_jitter(256), _plain_jitter)],
)
def test_a_seed_draws_what_it_draws_by_detectron2s_transforms(ours, plain):
    image = _noise(120, 90)
    mask = (image[:, :, 0] > 127).astype(np.uint8)
    points = np.random.default_rng(1).uniform(0, 90, (6, 2))
    for seed in range(8):
        results = []
        for augmentations in (ours(), plain()):
            np.random.seed(seed)
            augmented = T.AugInput(image)
            transforms = T.AugmentationList(augmentations)(augmented)
            coordinates = transforms.apply_coords(points.copy())
            masks = transforms.apply_segmentation(mask)
            results.append((augmented.image, masks, coordinates, np.random.rand()))
        (picture, *others), (expected, *expected_others) = results
        # 2 is rare: one rounding more in each of two passes, or three
        assert np.abs(picture.astype(int) - expected).max() <= 3
        assert np.abs(picture - expected.astype(float)).mean() < 0.3
        for other, expected_other in zip(others, expected_others):
            assert np.array_equal(other, expected_other)
