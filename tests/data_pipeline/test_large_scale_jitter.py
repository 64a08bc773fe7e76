"""Large-scale jittering: the range of its scale, the gray of its padding, masks that follow."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from co_detr.data import DetectionMapper, large_scale_jitter
from co_detr.data.large_scale_jitter import PAD_VALUE
from co_detr.modeling.base_detector import CANVAS_GRAY


@pytest.fixture(autouse=True)
def fixed_randomness():
    np.random.seed(0)


@pytest.fixture
def record(tmp_path):
    """A picture of 60 x 80 with a white object: 20..40 down, 30..60 across, but for a corner."""
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[20:40, 30:60] = 255
    pixels[20:30, 30:45] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    outline = [45, 20, 60, 20, 60, 40, 30, 40, 30, 30, 45, 30]
    annotation = {"bbox": [30, 20, 60, 40], "bbox_mode": 0, "category_id": 3}
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 60,
        "width": 80,
        "annotations": [{**annotation, "segmentation": [outline]}],
    }


def _mapper(augmentations, masks=True, form="bitmask"):
    return DetectionMapper(
        True,
        augmentations=augmentations,
        image_format="RGB",
        use_instance_mask=masks,
        instance_mask_format=form,
        recompute_boxes=masks,
    )


def test_scales_fill_the_range_from_a_tenth_to_twice_the_canvas():
    # 64 x 128 just fits the canvas of 128 at a scale of 1
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    augmentations = T.AugmentationList(large_scale_jitter(canvas=128))
    widths = []
    for _ in range(300):
        aug_input = T.AugInput(image)
        resize = augmentations(aug_input).transforms[0].resize
        assert aug_input.image.shape == (128, 128, 3)
        assert resize.new_h == pytest.approx(resize.new_w / 2, abs=1)
        widths.append(resize.new_w / 128)
    assert 0.09 < min(widths) < 0.13 and 1.97 < max(widths) < 2.01
    assert np.mean(widths) == pytest.approx(1.05, abs=0.1)  # uniform


def test_a_scale_of_one_pads_with_the_gray_of_the_released_models():
    image = np.full((64, 128, 3), 7, dtype=np.uint8)
    aug_input = T.AugInput(image)
    T.AugmentationList(large_scale_jitter(canvas=128, scale=(1.0, 1.0)))(aug_input)
    assert (aug_input.image[:64] == 7).all()
    assert (aug_input.image[64:] == 114).all()


def test_training_and_inference_pad_alike():
    assert PAD_VALUE == CANVAS_GRAY == 114.0


def test_half_of_the_images_are_flipped():
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16] = 255
    augmentations = T.AugmentationList(large_scale_jitter(canvas=32, scale=(1.0, 1.0)))
    flipped = 0
    for _ in range(200):
        aug_input = T.AugInput(image)
        augmentations(aug_input)
        flipped += aug_input.image[0, 0, 0] == 0
    assert 70 < flipped < 130


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match="range of positive factors"):
        large_scale_jitter(scale=(2.0, 0.1))


def test_masks_and_boxes_follow_the_pixels_and_are_empty_in_the_padding(record):
    mapper, seen = _mapper(large_scale_jitter(canvas=64)), 0
    for _ in range(80):
        example = mapper(record)
        bright = (example["image"][0] != 114) & (example["image"][0] > 127)
        if len(example["instances"]) == 0:
            assert bright.sum() <= 4  # a sliver that the mask has lost in scaling
            continue
        mask = example["instances"].gt_masks.tensor[0]
        x1, y1, x2, y2 = example["instances"].gt_boxes.tensor[0].tolist()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert [x1, y1, x2, y2] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        # they differ in pixels at the outline only, of which there are about 2 (w + h)
        assert (mask != bright).sum() <= 2 * (x2 - x1 + y2 - y1) + 4
        seen += 1
    assert seen > 40


def test_a_box_without_mask_is_jittered_too(record):
    del record["annotations"][0]["segmentation"]
    example = _mapper(large_scale_jitter(canvas=80, scale=(1.0, 1.0)), masks=False)(record)
    x1, y1, x2, y2 = example["instances"].gt_boxes.tensor[0].tolist()
    assert (y1, y2) == (20, 40) and (x1, x2) in ((30, 60), (20, 50))
    assert not example["instances"].has("gt_masks")


def test_the_corner_that_a_mask_leaves_out_stays_out(record):
    mask = _mapper([])(record)["instances"].gt_masks.tensor[0]
    expected = torch.zeros(60, 80, dtype=torch.bool)
    expected[20:40, 30:60] = True
    expected[20:30, 30:45] = False
    assert (mask != expected).sum() <= 0.02 * expected.sum()


def test_the_box_shrinks_to_the_mask_that_a_crop_leaves(record):
    # the lower half of the object starts at 30, where its box reaches down to 20
    crop = T.CropTransform(0, 0, 44, 60, orig_w=80, orig_h=60)
    assert _mapper([crop])(record)["instances"].gt_boxes.tensor.tolist() == [[30, 30, 44, 40]]


def test_crowds_need_no_mask_of_their_own(record):
    record["annotations"].append({"bbox": [0, 0, 9, 9], "bbox_mode": 0, "iscrowd": 1})
    assert len(_mapper([])(record)["instances"]) == 1


def test_a_missing_mask_is_named_with_the_remedy(record):
    record["annotations"][0]["segmentation"] = []
    with pytest.raises(ValueError, match=r"a.png.*\[30, 20, 60, 40\].*use_instance_mask=False"):
        _mapper([])(record)


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (900, 3)])
def test_awkward_pictures_come_through(tmp_path, size):
    Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": size[0],
        "width": size[1],
        "annotations": [],
    }
    example = _mapper(large_scale_jitter(canvas=32, scale=(1.0, 1.5)))(record)
    assert tuple(example["image"].shape) == (3, 32, 32)
    assert len(example["instances"]) == 0


def test_strips_keep_a_pixel_of_their_shorter_side(monkeypatch):
    # 1024 * 0.1 / 5000 of 1 and 5000 rows are 0.02 and 102.4
    strip, column = np.zeros((1, 5000, 3), np.uint8), np.zeros((5000, 1, 3), np.uint8)
    resize = large_scale_jitter(canvas=1024, scale=(0.1, 0.1))[0].resize
    for image, size in ((strip, (1, 102)), (column, (102, 1))):
        transform = resize.get_transform(image)
        assert (transform.new_h, transform.new_w) == size
        assert transform.apply_image(image).shape == (*size, 3)
        # all of the one row is in the box: it grows to a pixel, too
        height, width = image.shape[:2]
        box = transform.apply_box(np.array([[0.0, 0.0, width, height]]))
        assert box[0].tolist() == pytest.approx([0, 0, *size[::-1]])

    # detectron2's own rounds to nothing
    def nothing(self, image):
        return T.ResizeTransform(1, 5000, 0, 102, Image.BILINEAR)

    monkeypatch.setattr(T.ResizeScale, "get_transform", nothing)
    assert resize.get_transform(strip).apply_image(strip).shape == (1, 102, 3)


@pytest.mark.parametrize("form", ["bitmask", "polygon"])
def test_boxes_are_recomputed_from_masks_where_there_are_objects(record, form):
    """detectron2's mapper asks for the masks of an image without objects, which has none."""
    mapper = _mapper([], form=form)
    crowd = {**record, "annotations": [{**record["annotations"][0], "iscrowd": 1}]}
    for empty in (crowd, {**record, "annotations": []}):
        assert len(mapper(empty)["instances"]) == 0
    record["annotations"][0]["bbox"] = [0, 0, 80, 60]
    before = copy.deepcopy(record)
    assert mapper(record)["instances"].gt_boxes.tensor.tolist() == [[30, 20, 60, 40]]
    assert record == before
