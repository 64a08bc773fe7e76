"""Usual mistakes with pictures are told with what was passed and what is wanted."""

import re

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image

from co_detr.modeling.input_checks import check_array, check_images, check_instances

GRAY = np.full((8, 9, 3), 100, np.uint8)


def _check(image, values=True):
    check_images([{"image": torch.zeros(3, 4, 5)}, {"image": image, "file_name": "a.png"}], values)


def _ramp(least, greatest):
    return torch.linspace(least, greatest, 3 * 8 * 9).view(3, 8, 9)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 1, 1, dtype=torch.uint8),
        torch.ones(3, 8, 9),  # nearly black, and whole numbers
        _ramp(0, 255),
        _ramp(0, 255).half(),
        _ramp(-18, 273),  # bicubic interpolation overshoots
        torch.full((3, 8, 4), 200),
        torch.zeros(3, 5, 3),
    ],
)
def test_pictures_are_let_through(image):
    _check(image)


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.zeros(8, 9, 3), r"shape \(8, 9, 3\), wanted is .*channels go first: .*permute"),
        (torch.zeros(8, 9, 4), "channels go first"),
        (torch.zeros(8, 9), r"shape \(8, 9\), .*repeat the channel"),
        (torch.zeros(1, 8, 9), "repeat the channel"),
        (torch.zeros(4, 8, 9), r"leave the alpha channel out: image\[:3\]"),
        (torch.zeros(6, 8, 9), "needs three channels"),
        (torch.zeros(1, 3, 8, 9), "a list with a dict for each picture"),
        (torch.zeros(3, 0, 9), "empty"),
        (torch.zeros(3), "needs height, width and three channels"),
        (torch.zeros(3, 8, 9, dtype=torch.bool), "of torch.bool .* not a mask"),
        (_ramp(0, 1), "values from 0 to 1: multiply by 255"),
        (_ramp(-2.1, 2.6), "from -2.1 to 2.6: the mean is subtracted by the model"),
        (_ramp(0, 65535), "divide 16-bit values by 257"),
        (_ramp(0, 65535).int(), "of torch.int32 .*divide 16-bit values by 257"),
        (_ramp(-900, 3000), "from -900 to 3000: scale or clamp them"),
        (torch.full((3, 8, 9), torch.nan), "finite"),
        (_ramp(0, 255) / 0, "finite"),
    ],
)
def test_the_model_says_what_is_wrong(image, message):
    with pytest.raises(
        ValueError, match=rf'batched_inputs\[1\]\["image"\] \(a.png\) is .*{message}'
    ):
        _check(image)


def test_what_is_no_tensor_is_refused_by_the_model():
    with pytest.raises(TypeError, match=r"a numpy.ndarray of uint8 and shape \(8, 9, 3\), wanted"):
        _check(GRAY)
    with pytest.raises(TypeError, match="PIL.Image.Image, wanted is a tensor"):
        _check(Image.fromarray(GRAY))
    for batch in (torch.zeros(1, 3, 8, 9), {"image": torch.zeros(3, 8, 9)}, [torch.zeros(3, 8, 9)]):
        with pytest.raises(TypeError, match="a list of dicts"):
            check_images(batch, values=True)


def test_values_are_looked_at_only_where_nothing_waits_for_them():
    _check(_ramp(0, 1), values=False)
    _check(torch.zeros(3, 8, 9, device="meta"))  # has no values: looking would fail
    with pytest.raises(ValueError, match="channels go first"):
        _check(torch.zeros(8, 9, 3, device="meta"), values=False)


@pytest.mark.parametrize(
    "image, error, message",
    [
        (None, TypeError, "cv2.imread returns None"),
        ("a.png", TypeError, "str, wanted is an array.*read_picture"),
        (Image.fromarray(GRAY), TypeError, "read_picture"),
        (torch.zeros(3, 8, 9), TypeError, r"tensor.permute\(1, 2, 0\)"),
        (GRAY.transpose(2, 0, 1), ValueError, r"uint8 and shape \(3, 8, 9\).*transpose\(1, 2, 0\)"),
        (GRAY[:, :, 0], ValueError, "cv2.COLOR_GRAY2BGR"),
        (GRAY[:, :, :1], ValueError, "cv2.COLOR_GRAY2BGR"),
        (np.zeros((8, 9, 4)), ValueError, r"image\[:, :, :3\]"),
        (GRAY[None], ValueError, "one picture at a time"),
        (GRAY[:0], ValueError, "empty"),
        (GRAY > 0, ValueError, "not a mask"),
        (GRAY / 255, ValueError, "values from 0.392157 to 0.392157: multiply by 255"),
        (GRAY.astype(np.uint16) * 257, ValueError, "divide 16-bit values by 257"),
        (GRAY * np.nan, ValueError, "finite"),
    ],
)
def test_the_predictor_says_what_is_wrong(image, error, message):
    with pytest.raises(error, match=f"the picture is .*{message}"):
        check_array(image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_arrays_are_let_through(dtype):
    check_array(GRAY.astype(dtype)[:, ::-1])


# ---------------------------------------------------------------------------------------------
# annotations

BOX = [8.0, 8.0, 40.0, 50.0]


class Rotated(Boxes):
    """As detectron2's `RotatedBoxes`, of five numbers."""

    def __init__(self, tensor):
        self.tensor = tensor


def _objects(labels=(0, 6), boxes=(BOX, BOX), **fields):
    objects = Instances((64, 96))
    # as someone may do who goes around the check of lengths
    objects._fields = {
        "gt_classes": torch.tensor(labels, dtype=torch.int64),
        "gt_boxes": Boxes(torch.tensor(boxes).reshape(-1, 4)),
    } | fields
    return objects


def _check_annotations(objects):
    inputs = [_objects(), _objects([], []), objects]
    check_instances([{"instances": x, "file_name": f"{i}.png"} for i, x in enumerate(inputs)], 7)


@pytest.mark.parametrize(
    "objects",
    [
        _objects(),
        _objects([], []),
        _objects([3], [[8.0, 8.0, 8.0, 8.0]]),  # empty: trained on as any other
        _objects([3], [[-9.0, -9.0, 900.0, 900.0]]),
        _objects(gt_boxes=Boxes(torch.tensor([BOX, BOX]).requires_grad_())),
    ],
)
def test_annotations_are_let_through(objects):
    _check_annotations(objects)


@pytest.mark.parametrize(
    "objects, where, message",
    [
        (
            _objects([0, 7]),
            "gt_classes[1]",
            "7, wanted is a label 0 to 6 of .* 7 classes: set model.num_classes",
        ),
        (
            _objects([-1, 2]),
            "gt_classes[0]",
            "-1, wanted is a label 0 to 6 .*: leave out",
        ),
        (_objects([3], [[40.0, 8, 8, 50]]), "gt_boxes[0]", r"\[40.0, 8.0, 8.0.*BoxMode.XYWH"),
        (_objects(boxes=[BOX, [8.0, 50, 40, 8]]), "gt_boxes[1]", "x1 <= x2 and y1 <= y2"),
        (_objects([3], [[8.0, 8, torch.nan, 50]]), "gt_boxes[0]", "nan, 50.0.*finite"),
        (_objects([3], [[8.0, 8, torch.inf, 50]]), "gt_boxes[0]", "inf, 50.0.*finite"),
        (
            _objects(gt_classes=torch.zeros(2)),
            "gt_classes",
            "of torch.float32 .*, dtype=torch.int64",
        ),
        (_objects(gt_classes=torch.zeros(2, 1).long()), "gt_classes", r"shape \(2, 1\)"),
        (_objects(gt_boxes=torch.zeros(2, 4)), "gt_boxes", r"wanted are Boxes.*: Boxes\(boxes\)"),
        (_objects(gt_boxes=Rotated(torch.zeros(2, 5))), "gt_boxes", r"shape \(2, 5\)"),
        (_objects([0]), "gt_boxes.tensor", r"shape \(2, 4\), wanted .* of shape \(1, 4\)"),
    ],
)
def test_broken_annotations_are_named(objects, where, message):
    where = re.escape(f'batched_inputs[2]["instances"].{where}')
    with pytest.raises(ValueError, match=rf"{where}.* \(2.png\) is .*{message}"):
        _check_annotations(objects)


@pytest.mark.parametrize(
    "objects, message",
    [
        ({"gt_classes": [0]}, r'"instances"\] \(2.png\) is dict, wanted are Instances'),
        (_objects(gt_classes=None), r"gt_classes \(2.png\) is None, wanted is a tensor"),
        (_objects(gt_boxes=BitMasks(torch.zeros(2, 9, 9))), "BitMasks, wanted are Boxes"),
    ],
)
def test_annotations_of_another_type_are_named(objects, message):
    with pytest.raises(TypeError, match=message):
        _check_annotations(objects)


def test_annotations_are_read_only_where_nothing_waits_for_them():
    _check_annotations(_objects([0, 10]).to("meta"))  # has no values: reading would fail
    with pytest.raises(ValueError, match="of torch.float32"):
        _check_annotations(_objects(gt_classes=torch.zeros(2)).to("meta"))
