"""Copy-paste: what is covered loses pixels, shrinks or goes; and training with it is repeatable."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from co_detr.data import (
    CopyPaste,
    DetectionMapper,
    build_train_loader,
    large_scale_jitter,
    load_dataset,
)


@pytest.fixture(autouse=True)
def fixed_randomness():
    np.random.seed(0)


@pytest.fixture
def paste_all(monkeypatch):
    """As many objects as possible are pasted, in their order."""
    monkeypatch.setattr(np.random, "randint", lambda high: high - 1)
    monkeypatch.setattr(np.random, "permutation", np.arange)


def _example(boxes, value, size=100, classes=None, image_id=1):
    """An image of one gray `value` whose objects fill their boxes (x1, y1, x2, y2)."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    instances = Instances((size, size))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes or list(range(len(boxes))), dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    image = torch.full((3, size, size), value, dtype=torch.uint8)
    return {"image": image, "instances": instances, "image_id": image_id}


def _boxes(example):
    return example["instances"].gt_boxes.tensor.tolist()


def test_pixels_and_objects_of_the_second_image_come_over_the_first(paste_all):
    below = _example([(0, 0, 20, 20)], 10, classes=[4])
    over = _example([(50, 60, 70, 90)], 200, classes=[2], image_id=2)
    result = CopyPaste()(below, over)
    assert (result["image"][:, 60:90, 50:70] == 200).all()
    assert (result["image"] == 200).sum() == 3 * 30 * 20
    assert _boxes(result) == [[0, 0, 20, 20], [50, 60, 70, 90]]
    assert result["instances"].gt_classes.tolist() == [4, 2]
    assert result["image_id"] == 1
    assert not result["instances"].has("gt_masks")
    # what went in is as it was
    assert (below["image"] == 10).all() and len(below["instances"]) == 1


def test_a_covered_object_keeps_the_box_of_what_remains(paste_all):
    # its right part is covered: 30 of 60 columns, 40 rows remain, 1200 pixels
    below, over = _example([(10, 10, 70, 50)], 0), _example([(40, 0, 90, 60)], 9)
    result = CopyPaste(keep_masks=True)(below, over)
    assert _boxes(result) == [[10, 10, 40, 50], [40, 0, 90, 60]]
    assert result["instances"].gt_masks.tensor.flatten(1).sum(1).tolist() == [1200, 3000]


def test_a_hole_in_its_middle_leaves_the_box(paste_all):
    result = CopyPaste()(_example([(10, 10, 50, 50)], 0), _example([(20, 20, 40, 40)], 9))
    assert _boxes(result)[0] == [10, 10, 50, 50]


def test_a_fully_covered_object_goes(paste_all):
    below = _example([(10, 10, 30, 30), (60, 60, 80, 80)], 0, classes=[5, 6])
    result = CopyPaste()(below, _example([(5, 5, 40, 40)], 9, classes=[1]))
    assert result["instances"].gt_classes.tolist() == [6, 1]


def test_a_tiny_object_at_the_corner_goes_too_when_it_is_covered(paste_all):
    # its box changes to (0, 0, 0, 0), by less than the tolerance
    result = CopyPaste()(_example([(0, 0, 5, 5)], 0), _example([(0, 0, 50, 50)], 9))
    assert _boxes(result) == [[0, 0, 50, 50]]


@pytest.mark.parametrize(
    "covered_from, kept",
    [
        (25, True),  # 15 columns x 20 rows = 300 pixels, but the edge has moved by 5 only
        (20, True),  # 200 pixels, moved by 10
        (19, False),  # 180 pixels, moved by 11
    ],
)
def test_objects_with_few_pixels_left_stay_if_their_box_hardly_changes(
    paste_all, covered_from, kept
):
    below, over = _example([(10, 10, 30, 30)], 0), _example([(covered_from, 0, 90, 60)], 9)
    assert (len(CopyPaste()(below, over)["instances"]) == 2) == kept


@pytest.mark.parametrize("columns, kept", [(15, False), (16, True)])
def test_objects_whose_box_changes_stay_with_more_than_300_pixels(paste_all, columns, kept):
    # 20 rows: 300 pixels, or 320; the box shrinks by more than 10
    below, over = _example([(10, 10, 50, 30)], 0), _example([(10 + columns, 0, 90, 60)], 9)
    assert (len(CopyPaste()(below, over)["instances"]) == 2) == kept


def test_the_number_of_pasted_objects_is_uniform_up_to_the_bound():
    over = _example([(i, 0, i + 1, 1) for i in range(20)], 9)
    numbers = [len(CopyPaste(3)(_example([], 0), over)["instances"]) for _ in range(400)]
    assert set(numbers) == {0, 1, 2, 3}
    assert min(numbers.count(n) for n in range(4)) > 60


def test_every_object_is_pasted_as_often_as_the_others():
    over = _example([(i, 0, i + 1, 1) for i in range(4)], 9)
    classes = [CopyPaste(2)(_example([], 0), over)["instances"].gt_classes for _ in range(400)]
    counts = torch.bincount(torch.cat(classes), minlength=4)
    assert counts.sum() / 400 == pytest.approx(1.0, abs=0.15)  # mean of 0, 1 and 2
    assert counts.min() > 60
    assert all(len(set(c.tolist())) == len(c) for c in classes)


def _by_definition(below, over, number, order):
    """All objects at once, with the masks of the whole image."""
    before, source = below["instances"], over["instances"]
    pasted = source.gt_masks.tensor[order[:number]]
    covered = pasted.any(0)
    after = BitMasks(before.gt_masks.tensor & ~covered)
    boxes = after.get_bounding_boxes().tensor
    moved = (boxes - before.gt_masks.get_bounding_boxes().tensor).abs().amax(1)
    area = after.tensor.sum((1, 2))
    kept = (area > 0) & ((moved <= 10) | (area > 300))
    image = torch.where(covered, over["image"], below["image"])
    masks = torch.cat([after.tensor[kept], pasted])
    classes = torch.cat([before.gt_classes[kept], source.gt_classes[order[:number]]])
    boxes = torch.cat([boxes[kept], source.gt_boxes.tensor[order[:number]]])
    return image, masks, classes, boxes


def test_ragged_masks_come_together_by_definition():
    rng = np.random.default_rng(0)
    for seed in range(20):
        examples = []
        for value in (10, 200):
            corners = rng.integers(0, 60, (rng.integers(0, 9), 2))
            boxes = [(x, y, x + rng.integers(1, 40), y + rng.integers(1, 40)) for x, y in corners]
            example = _example(boxes, value)
            masks = example["instances"].gt_masks.tensor
            masks &= torch.from_numpy(rng.random(masks.shape) < 0.7)
            examples.append(example)
        below, over = examples
        np.random.seed(seed)
        result = CopyPaste(keep_masks=True)(below, over)
        np.random.seed(seed)
        number = np.random.randint(len(over["instances"]) + 1)
        order = torch.from_numpy(np.random.permutation(len(over["instances"])))
        image, masks, classes, boxes = _by_definition(below, over, number, order)
        assert torch.equal(result["image"], image)
        assert torch.equal(result["instances"].gt_masks.tensor, masks)
        assert torch.equal(result["instances"].gt_classes, classes)
        assert torch.equal(result["instances"].gt_boxes.tensor, boxes)


def test_images_without_objects_are_fine():
    empty = _example([], 7)
    empty["instances"].remove("gt_masks")  # as the mapper leaves it
    assert (CopyPaste()(empty, empty)["image"] == 7).all()
    assert len(CopyPaste()(_example([(0, 0, 9, 9)], 0), empty)["instances"]) == 1


def test_images_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(100, 100\) and \(60, 60\).*large_scale_jitter"):
        CopyPaste()(_example([], 0), _example([], 0, size=60))


def test_objects_without_masks_are_refused():
    other = _example([(0, 0, 5, 5)], 0)
    other["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="needs the masks.*mix=None"):
        CopyPaste()(_example([], 0), other)


# ---------------------------------------------------------------- in the training loader


@pytest.fixture
def masked(tiny):
    """The tiny dataset with the boxes' rectangles as masks."""
    for annotation in tiny.content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return tiny


def _loader(dicts, **options):
    mapper = DetectionMapper(
        True,
        augmentations=large_scale_jitter(canvas=48, scale=(0.5, 1.5)),
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )
    return build_train_loader(
        dicts,
        mapper=mapper,
        mix=CopyPaste(min_mask_area=10),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        **{"num_workers": 0, "seed": 7, **options},
    )


def _take(loader, number):
    examples = itertools.chain.from_iterable(itertools.islice(loader, number))
    return [
        (e["image_id"], e["image"].tolist(), _boxes(e), e["instances"].gt_classes.tolist())
        for e in examples
    ]


def test_mixed_batches_are_the_same_after_an_interruption_and_in_workers(masked):
    dicts = load_dataset(masked.register())
    whole = _take(_loader(dicts), 5)
    assert _take(_loader(dicts, start_iter=3), 2) == whole[6:]
    assert _take(_loader(dicts, num_workers=2), 2) == whole[:4]
    # an image has at most two objects, so three have been brought together
    assert max(len(classes) for *_, classes in _take(_loader(dicts), 20)) >= 3


def test_a_broken_partner_is_skipped_and_counted(masked, caplog):
    (masked.root / "2.png").write_bytes(b"")
    loader = _loader(load_dataset(masked.register()))
    assert len(_take(loader, 4)) == 8
    assert "2.png: the file is empty; left out" in caplog.text
