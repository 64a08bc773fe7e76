"""Refined masks of the decoder's detections: by hand, on awkward batches, and in a small model."""

import math

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from golden import CONFIGS, co_dino_config
from torch import nn

from co_detr.modeling.instance_mask import InstanceMask, mask_iou
from co_detr.modeling.losses import normalize
from co_detr.modeling.refine_mask import (
    MaskIoUHead,
    RefineMaskHead,
    RefinementStage,
    boundary,
    replace_along_boundary,
)

SIZES = [(64, 96), (40, 50)]
STRIDES = (4, 8, 16)
MASKS = ["loss_mask_0", "loss_mask_1", "loss_mask_2", "loss_mask_3"]


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make(iou=True, **kwargs):
    iou_head = MaskIoUHead(in_channels=32, num_classes=3, conv_channels=8, fc_dim=4)
    return InstanceMask(
        mask_head=RefineMaskHead(in_channels=32, num_classes=3),
        iou_head=iou_head if iou else None,
        strides=STRIDES,
        finest_scale=28,
        **kwargs,
    )


def maps():
    return [torch.randn(2, 32, 64 // s, 96 // s, requires_grad=True) for s in STRIDES]


def ground_truth(boxes, size, **fields):
    """Objects that fill their boxes; an image without any has no `gt_masks`."""
    gt = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(len(boxes)) % 3)
    if boxes:
        pixels = torch.zeros(len(boxes), *size)
        for mask, (x0, y0, x1, y1) in zip(pixels, boxes):
            mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
        gt.gt_masks = BitMasks(pixels)
    return gt


BATCHES = {
    "no-objects": ([], []),
    "one-empty-image": ([[8.0, 8.0, 40.0, 50.0], [30.0, 4.0, 90.0, 60.0]], []),
    "one-pixel": ([[50.0, 30.0, 51.0, 31.0]], [[0.0, 0.0, 1.0, 1.0]]),
    "whole-image": ([[0.0, 0.0, 96.0, 64.0]], [[0.0, 0.0, 50.0, 40.0]]),
    "twins": ([[8.0, 8.0, 40.0, 50.0]] * 2, [[3.0, 3.0, 30.0, 40.0]] * 3),
}


@pytest.fixture(params=BATCHES)
def truth(request):
    return [ground_truth(*each) for each in zip(BATCHES[request.param], SIZES)]


# ---------------------------------------------------------------- boundaries


def picture(*rows):
    return torch.tensor([[[c == "#" for c in row] for row in rows]])


def test_the_boundary_is_on_both_sides_of_the_contour_and_not_along_the_edge_of_the_box():
    mask = picture("###....", "###....", "###....")
    assert torch.equal(boundary(mask, 1), picture("..##...", "..##...", "..##..."))
    assert torch.equal(boundary(mask, 2), picture(".####..", ".####..", ".####.."))


def test_a_lone_pixel_is_all_boundary_and_uniform_masks_have_none():
    mask = picture(".....", ".....", "..#..", ".....", ".....")
    expected = picture(".....", ".###.", ".###.", ".###.", ".....")
    assert torch.equal(boundary(mask, 1), expected)
    assert not boundary(picture("##", "##"), 1).any()
    assert not boundary(picture("..", ".."), 1).any()


def test_finer_masks_replace_coarser_ones_along_the_boundary_only():
    coarse = torch.tensor([5.0, 5.0, 5.0, -5.0, -5.0]).expand(1, 5, 5)
    fine = torch.full((1, 10, 10), 0.5)
    got = replace_along_boundary(coarse, fine, 1)
    # columns 2 and 3 are boundary, so 4 to 7 of the finer mask; elsewhere logits are upsampled
    assert got[0, 3].tolist() == pytest.approx([5, 5, 5, 5, 0.5, 0.5, 0.5, 0.5, -5, -5])


# ---------------------------------------------------------------- losses


def square(side, size):
    """A mask (1, size, size) with the upper left square of that side set."""
    mask = torch.zeros(1, size, size)
    mask[:, :side, :side] = 1
    return mask


def by_hand(**kwargs):
    head = RefineMaskHead(in_channels=8, num_classes=1, resolution=2, num_stages=2)
    return InstanceMask(mask_head=head, strides=(4,), mask_weights=(0.5, 1.0, 2.0), **kwargs)


def test_coarse_masks_are_supervised_everywhere_and_fine_ones_along_boundaries():
    """Masks of 2, 4 and 8 pixels, all logits 0: ln 2 per pixel.

    Probability 1/2 counts as inside, so the second mask is full and has no boundary. The target at
    4 pixels has its corner pixel set: the boundary of width 1 is 2 x 2 of 4 x 4, so 4 x 4 of the
    8 x 8 pixels of the finest mask count.
    """
    logits = [torch.zeros(1, size, size) for size in (2, 4, 8)]
    losses = by_hand(num_whole=2, boundary_width=1).mask_losses(logits, square(2, 8))
    totals = [losses[f"loss_mask_{i}"].total.item() for i in range(3)]
    expected = [0.5 * math.log(2), math.log(2), 2 * 16 * math.log(2)]
    assert totals == pytest.approx(expected, rel=1e-5)
    assert [float(losses[f"loss_mask_{i}"].count) for i in range(3)] == [1, 1, 16]


def test_predicted_boundaries_are_supervised_too():
    """The second mask wrongly sets its lower right pixel: another 4 x 4 pixels count above."""
    coarse = torch.full((1, 4, 4), -1.0)
    coarse[:, 3, 3] = 1.0
    logits = [torch.zeros(1, 2, 2), coarse, torch.zeros(1, 8, 8)]
    losses = by_hand(num_whole=2, boundary_width=1).mask_losses(logits, square(2, 8))
    assert float(losses["loss_mask_2"].count) == 32


def test_targets_of_coarser_masks_are_rounded_by_area():
    """A square of 3 of 8 pixels covers 1 pixel of 4 x 4 wholly, two by half and one by a quarter;
    and 9/16 of one of 2 x 2."""
    logits = [torch.full((1, size, size), math.log(3)) for size in (2, 4, 8)]  # probability 3/4
    losses = by_hand(num_whole=3).mask_losses(logits, square(3, 8))
    yes, no = -math.log(3 / 4), -math.log(1 / 4)
    totals = [losses[f"loss_mask_{i}"].total.item() for i in range(3)]
    expected = [0.5 * (yes + 3 * no) / 4, (3 * yes + 13 * no) / 16, 2 * (9 * yes + 55 * no) / 64]
    assert totals == pytest.approx(expected, rel=1e-5)


def test_one_weight_per_mask():
    with pytest.raises(ValueError, match="3 mask_weights for 4 masks"):
        make(mask_weights=(1.0, 1.0, 1.0))


def test_iou_counts_what_of_the_object_is_outside_the_box():
    """A box of 64 square pixels. The mask covers half of it, 16 of them on the object, whose area
    is 48: 16 / (32 + 48 - 16)."""
    predicted = picture("##..", "##..", "##..", "##..")
    target = picture("####", "....", "....", "....")
    areas = torch.tensor([48.0])
    assert mask_iou(predicted, ~predicted, torch.tensor([64.0]), areas).item() == 0
    got = mask_iou(predicted, target, torch.tensor([64.0]), areas)
    assert got.item() == pytest.approx(8 / (32 + 48 - 8))
    assert mask_iou(target, target, torch.tensor([64.0]), torch.tensor([16.0])).item() == 1


def test_the_iou_loss_is_half_the_squared_error_where_masks_overlap():
    head = make(iou_weight=2.0)
    term = head.iou_loss(torch.tensor([0.5, 0.9, 0.2]), torch.tensor([0.7, 0.0, 0.5]))
    assert term.total.item() == pytest.approx(2 * (0.2**2 + 0.3**2) / 2)
    assert term.count == 2


# ---------------------------------------------------------------- training


def test_losses_are_finite_and_reach_every_parameter(truth):
    head, features = make(), maps()
    losses = normalize(head(features, torch.rand(2, 7, 4), SIZES, truth))
    assert list(losses) == [f"instance_mask/{name}" for name in [*MASKS, "loss_iou"]]
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        # A parameter without gradient would leave other ranks waiting in the reduction.
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_part_and_the_features_learn():
    head, features = make(), maps()
    for layer in head.mask_head.predictors:  # freshly made, predictors are all but blind
        nn.init.normal_(layer.weight, std=0.3)
    truth = [ground_truth(*each) for each in zip(BATCHES["one-empty-image"], SIZES)]
    truth[0].gt_masks.tensor[:, ::7] = False  # boundaries within the boxes
    losses = normalize(head(features, torch.rand(2, 7, 4), SIZES, truth))
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.any(), name
    assert features[0].grad[0].any() and not features[0].grad[1].any()


def test_objects_without_masks_are_an_error():
    gt = ground_truth([[8.0, 8.0, 40.0, 50.0]], SIZES[0])
    gt.remove("gt_masks")
    with pytest.raises(ValueError, match="use_instance_mask=True"):
        make()(maps(), torch.rand(2, 7, 4), SIZES, [gt, ground_truth([], SIZES[1])])


def test_samples_are_the_ground_truth_and_predictions_that_overlap_it():
    gt = ground_truth([[8.0, 8.0, 40.0, 50.0], [30.0, 4.0, 90.0, 60.0]], SIZES[0])
    xyxy = torch.tensor(
        [
            [8.0, 8.0, 40.0, 30.0],  # more than half of the first object
            [8.0, 8.0, 40.0, 28.0],  # less
            [30.0, 4.0, 130.0, 60.0],  # the second object, once it is clipped to the image
        ]
    )
    size = torch.tensor([96.0, 64.0])
    cxcywh = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2 / size, (xyxy[:, 2:] - xyxy[:, :2]) / size])
    cxcywh = torch.cat(cxcywh.chunk(2), dim=1)
    (got,) = make().sample(cxcywh[None], SIZES[:1], [gt])
    rows = sorted(
        (index, cls, *[round(v, 3) for v in box])
        for index, cls, box in zip(
            got.gt_index.tolist(), got.gt_classes.tolist(), got.proposal_boxes.tensor.tolist()
        )
    )
    assert rows == [
        (0, 0, 8, 8, 40, 30),
        (0, 0, 8, 8, 40, 50),
        (1, 1, 30, 4, 90, 60),
        (1, 1, 30, 4, 96, 60),
    ]
    (got,) = make(boxes_per_image=3).sample(cxcywh[None], SIZES[:1], [gt])
    assert len(got) == 3


def test_equal_boxes_of_two_classes_are_each_samples_of_their_own():
    gt = ground_truth([[8.0, 8.0, 40.0, 50.0]] * 2, SIZES[0])
    (got,) = make().sample(torch.zeros(1, 0, 4), SIZES[:1], [gt])
    assert sorted(got.gt_index.tolist()) == sorted(got.gt_classes.tolist()) == [0, 1]


def test_a_mask_can_be_learned():
    """Overfit to a disk: the refined mask fits it better than the coarse one can."""
    head = make(iou=True)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    disk = (x - 40) ** 2 + (y - 32) ** 2 < 20**2
    gt = Instances((64, 96), gt_boxes=Boxes([[20.0, 12.0, 60.0, 52.0]]))
    gt.gt_classes, gt.gt_masks = torch.tensor([1]), BitMasks(disk[None])
    features = [disk[None, None, ::s, ::s] + 0.1 * torch.randn(1, 32, 64 // s, 96 // s)
                for s in STRIDES]  # fmt: skip
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        losses = head(features, torch.zeros(1, 0, 4), [(64, 96)], [gt])
        sum(normalize(losses).values()).backward()
        optimizer.step()
    found = Instances((64, 96), pred_boxes=gt.gt_boxes, scores=torch.tensor([0.5]))
    found.pred_classes = gt.gt_classes
    with torch.no_grad():
        (found,) = head.eval().inference(features, [found])
    y, x = torch.meshgrid(torch.arange(112) + 0.5, torch.arange(112) + 0.5, indexing="ij")
    expected = (x - 56) ** 2 + (y - 56) ** 2 < 56**2
    mask = found.pred_masks[0, 0] >= 0.5
    iou = (mask & expected).sum() / (mask | expected).sum()
    assert iou > 0.95
    # and the head knows that it fits
    assert found.mask_scores.item() == pytest.approx(0.5, abs=0.05)


# ---------------------------------------------------------------- inference


def detections(count, size):
    corner = torch.rand(count, 2) * 30
    boxes = torch.cat([corner, corner + 2 + torch.rand(count, 2) * 40], dim=1)
    found = Instances(size, pred_boxes=Boxes(boxes), scores=torch.rand(count))
    found.pred_classes = torch.arange(count) % 3
    return found


@torch.no_grad()
def test_masks_do_not_depend_on_the_size_of_the_chunks():
    head, features = make().eval(), maps()
    for parameter in head.parameters():  # freshly made, predictors are all but blind
        nn.init.normal_(parameter, std=0.3)
    whole = [detections(7, SIZES[0]), detections(2, SIZES[1])]
    parts = [Instances(d.image_size, **d.get_fields()) for d in whole]
    whole = head.inference(features, whole)
    head.chunk_size = 3
    parts = head.inference(features, parts)
    for one, other in zip(whole, parts):
        assert one.pred_masks.shape == (len(one), 1, 112, 112)
        assert one.pred_masks.std() > 0.01
        torch.testing.assert_close(one.pred_masks, other.pred_masks)
        torch.testing.assert_close(one.mask_scores, other.mask_scores)
        assert torch.equal(one.scores, other.scores)


@torch.no_grad()
def test_an_image_without_detections_has_the_fields():
    first, second = make().eval().inference(maps(), [detections(0, s) for s in SIZES])
    assert first.pred_masks.shape == (0, 1, 112, 112) and first.mask_scores.shape == (0,)
    assert second.image_size == SIZES[1]


@torch.no_grad()
def test_without_an_iou_head_there_are_no_mask_scores():
    first, _ = make(iou=False).eval().inference(maps(), [detections(2, s) for s in SIZES])
    assert first.has("pred_masks") and not first.has("mask_scores")


@torch.no_grad()
def test_a_stage_halves_the_width_doubles_the_size_and_hands_the_mask_on():
    stage = RefinementStage(in_channels=8, semantic_channels=6, resolution=2)
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]])
    out = stage(torch.randn(2, 8, 2, 2), logits, torch.randn(2, 8, 2, 2))
    assert out.shape == (2, 4, 4, 4)
    torch.testing.assert_close(out[:, -1, 0, 0], logits.sigmoid()[:, 0, 0])


# ---------------------------------------------------------------- in a model


@pytest.fixture(scope="module")
def model():
    """Co-DINO in miniature with a mask head."""
    cfg = co_dino_config()
    cfg.instance_mask = LazyConfig.load(
        str(CONFIGS / "common/models/instance_mask.py")
    ).instance_mask
    cfg.instance_mask.iou_head.fc_dim = 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return instantiate(cfg)


def images():
    inputs = []
    for boxes, size in zip(BATCHES["one-empty-image"], SIZES):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        inputs.append({"image": image, "instances": ground_truth(boxes, size)})
    return inputs


def test_a_model_trains_two_steps_and_predicts_masks_of_the_output_size(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        losses = model(images())
        assert {f"instance_mask/{name}" for name in [*MASKS, "loss_iou"]} <= set(losses)
        total = sum(losses.values())
        assert total.isfinite()
        total.backward()
        for name, parameter in model.instance_mask.named_parameters():
            assert parameter.grad is not None, name
        optimizer.step()

    model.eval()
    inputs = [x | {"height": 120, "width": 150} for x in images()]
    with torch.no_grad():
        results = model(inputs)
    for result in results:
        found = result["instances"]
        assert len(found) > 0
        assert found.pred_masks.shape == (len(found), 120, 150)
        assert found.pred_masks.dtype == torch.bool
        # nothing is set outside of the boxes
        for mask, (x0, y0, x1, y1) in zip(found.pred_masks, found.pred_boxes.tensor):
            rows, columns = mask.nonzero().unbind(1)
            if len(rows):
                assert x0 - 1 <= columns.min() and columns.max() <= x1
                assert y0 - 1 <= rows.min() and rows.max() <= y1
        assert (found.mask_scores <= found.scores).all()


def test_masks_change_neither_boxes_nor_scores(model, monkeypatch):
    model.eval()
    inputs = images()
    with torch.no_grad():
        with_masks = model(inputs)
        monkeypatch.setattr(model, "instance_mask", None)
        without = model(inputs)
    for one, other in zip(with_masks, without):
        assert torch.equal(one["instances"].scores, other["instances"].scores)
        assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
        assert not other["instances"].has("pred_masks")
