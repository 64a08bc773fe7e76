"""Mask targets, and the mask branch of the Faster R-CNN head, by hand and on awkward batches."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

from co_detr.modeling.aux_heads.mask import MaskHead
from co_detr.modeling.aux_heads.rcnn import BoxHead, FasterRCNNHead
from co_detr.modeling.aux_heads.rpn import RPN
from co_detr.modeling.aux_heads.truth import PaddedTruth
from co_detr.modeling.losses import normalize
from co_detr.modeling.masks import class_logits, cut_masks, mask_areas

SIZE = (16, 32)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def bitmasks(rectangles, size=SIZE):
    pixels = torch.zeros(len(rectangles), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(pixels, rectangles):
        mask[y0:y1, x0:x1] = True
    return BitMasks(pixels)


def polygons(rectangles):
    return PolygonMasks([[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in rectangles])


def ground_truth(boxes, masks=None, classes=None, size=SIZE):
    classes = range(len(boxes)) if classes is None else classes
    gt = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(list(classes)).long())
    if masks is not None:
        gt.gt_masks = masks
    return gt


def make_head(**kwargs):
    options = {"in_channels": 8, "num_classes": 3, "strides": (8,), "conv_channels": 4}
    return MaskHead(**options | {"resolution": 2, "num_convs": 1} | kwargs)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("form", [bitmasks, polygons])
def test_masks_are_cut_to_the_box_of_each_sample_and_rounded_by_area(form):
    """The first object fills the left half of its box and a corner of the other one's."""
    objects = [(4, 0, 8, 8), (16, 0, 24, 8)]
    gt = ground_truth([[4.0, 0.0, 12.0, 8.0], [16.0, 0.0, 24.0, 8.0]], form(objects))
    boxes = Boxes([[4.0, 0.0, 12.0, 8.0], [16.0, 4.0, 24.0, 12.0], [0.0, 4.0, 8.0, 12.0]])
    got = cut_masks([gt], [torch.tensor([0, 1, 0])], [boxes], 2)
    assert got.dtype == torch.float32
    assert got.tolist() == [[[1, 0], [1, 0]], [[1, 1], [0, 0]], [[0, 1], [0, 0]]]


def test_masks_are_taken_from_their_own_image():
    left = ground_truth([[0.0, 0.0, 8.0, 8.0]], bitmasks([(0, 0, 4, 8)]))
    right = ground_truth([[0.0, 0.0, 8.0, 8.0]], bitmasks([(4, 0, 8, 8)], (8, 8)), size=(8, 8))
    empty = ground_truth([])
    index = [torch.tensor([0]), torch.tensor([]).long(), torch.tensor([0])]
    boxes = [left.gt_boxes, Boxes([]), right.gt_boxes]
    got = cut_masks([left, empty, right], index, boxes, 2)
    assert got.tolist() == [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]


def test_masks_of_no_objects_are_none():
    assert cut_masks([ground_truth([])], [torch.tensor([]).long()], [Boxes([])], 5).shape == (
        0,
        5,
        5,
    )


@pytest.mark.parametrize("form", [bitmasks, polygons])
def test_areas_are_those_of_whole_objects(form):
    gt = ground_truth([[0.0, 0.0, 8.0, 8.0]] * 2, form([(0, 0, 4, 8), (0, 0, 3, 2)]))
    index = [torch.tensor([1, 0, 1]), torch.tensor([]).long()]
    assert mask_areas([gt, ground_truth([])], index).tolist() == [6, 32, 6]


def test_objects_without_masks_are_an_error_that_names_the_setting():
    gt = ground_truth([[0.0, 0.0, 8.0, 8.0]])
    with pytest.raises(ValueError, match="1 objects has no `gt_masks`.*use_instance_mask=True"):
        cut_masks([gt], [torch.tensor([0])], [gt.gt_boxes], 2)


# ---------------------------------------------------------------- logits


def test_class_logits_are_the_output_of_the_layer_for_the_class():
    layer, hidden = nn.Conv2d(6, 5, 1), torch.randn(4, 6, 3, 3)
    classes = torch.tensor([4, 0, 2, 2])
    expected = layer(hidden)[torch.arange(4), classes]
    torch.testing.assert_close(class_logits(layer, hidden, classes), expected)


def test_a_class_agnostic_layer_serves_every_class():
    layer, hidden = nn.Conv2d(6, 1, 1), torch.randn(2, 6, 3, 3)
    got = class_logits(layer, hidden, torch.tensor([4, 0]))
    torch.testing.assert_close(got, layer(hidden)[:, 0])


# ---------------------------------------------------------------- loss


@pytest.fixture
def blank():
    """Predicts probability 3/4 in every pixel of class 1, and 1/2 of the others."""
    head = make_head()
    nn.init.zeros_(head.predictor.weight)
    head.predictor.bias.data = torch.tensor([0.0, math.log(3), 0.0])
    return head


def samples(boxes, classes, index):
    return Instances(
        SIZE,
        proposal_boxes=Boxes(boxes),
        gt_classes=torch.tensor(classes),
        gt_index=torch.tensor(index),
    )


@pytest.mark.parametrize("form", [bitmasks, polygons])
def test_the_loss_is_the_mean_over_pixels_summed_over_positive_samples(blank, form):
    """Class 1: half of the pixels are set. Class 0: ln 2, whatever the target. Background: none."""
    gt = ground_truth([[0.0, 0.0, 8.0, 8.0]], form([(0, 0, 4, 8)]), classes=[1])
    box = [0.0, 0.0, 8.0, 8.0]
    features = [torch.randn(1, 8, 2, 4)]
    term = blank.loss(features, [samples([box] * 3, [1, 0, 3], [0, 0, -1])], [gt])
    expected = -(math.log(3 / 4) + math.log(1 / 4)) / 2 + math.log(2)
    assert term.total.item() == pytest.approx(expected, rel=1e-5)
    assert term.count == 2


def test_the_loss_without_positive_samples_is_zero_and_reaches_the_head():
    head = make_head()
    features = [torch.randn(2, 8, 2, 4, requires_grad=True)]
    drawn = samples([[0.0, 0.0, 8.0, 8.0]], [3], [-1])
    loss = normalize({"loss": head.loss(features, [drawn] * 2, [ground_truth([])] * 2)})["loss"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_a_mask_can_be_learned():
    """The head overfits one mask: what it learns to predict is the mask it is shown."""
    head = make_head(conv_channels=16, resolution=4)
    features = [torch.randn(1, 8, 2, 4)]
    gt = ground_truth([[0.0, 0.0, 16.0, 16.0]], bitmasks([(2, 4, 8, 12)]), classes=[2])
    drawn = samples([[0.0, 0.0, 16.0, 16.0]], [2], [0])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        head.loss(features, [drawn], [gt]).total.backward()
        optimizer.step()
    found = Instances(SIZE, pred_boxes=drawn.proposal_boxes, pred_classes=torch.tensor([2]))
    (found,) = head.inference(features, [found])
    expected = torch.zeros(8, 8)  # two pixels of the image each
    expected[2:6, 1:4] = 1
    assert found.pred_masks.shape == (1, 1, 8, 8)
    assert found.pred_masks[0, 0].round().tolist() == expected.tolist()


# ---------------------------------------------------------------- in the Faster R-CNN head


def make_rcnn(**kwargs):
    return FasterRCNNHead(
        rpn=RPN(in_channels=8, strides=(8,), anchor_scale=1, post_nms_topk=(20, 20)),
        box_head=BoxHead(in_channels=8, num_classes=3, strides=(8,), resolution=2, fc_dim=4),
        mask_head=make_head(),
        detections_per_image=5,
        **kwargs,
    )


def batch(form=bitmasks):
    """Two images, the second one without objects, and so without `gt_masks`."""
    objects = [(0, 0, 8, 8), (10, 2, 20, 12)]
    return [ground_truth([[float(v) for v in o] for o in objects], form(objects)), ground_truth([])]


@pytest.mark.parametrize("form", [bitmasks, polygons])
def test_the_mask_loss_joins_the_losses_with_their_weight(form):
    head = make_rcnn(loss_weight=12.0, mask_loss_weight=0.5)
    nn.init.zeros_(head.mask_head.predictor.weight)
    features = [torch.randn(2, 8, 2, 4, requires_grad=True)]
    losses = head(features, [SIZE] * 2, batch(form)).losses
    mask = losses["loss_mask"]
    assert mask.count >= 2  # the ground truth is among the samples
    assert mask.total.item() == pytest.approx(12 * 0.5 * mask.count * math.log(2), rel=1e-5)
    normalize(losses)["loss_mask"].backward()
    assert all(p.grad is not None for p in head.mask_head.parameters())
    assert features[0].grad is not None


def test_the_names_of_losses_do_not_depend_on_the_batch():
    head, features = make_rcnn(), [torch.randn(2, 8, 2, 4)]
    names = list(head(features, [SIZE] * 2, batch()).losses)
    assert list(head(features, [SIZE] * 2, [ground_truth([])] * 2).losses) == names


def test_samples_know_their_object_in_their_own_image():
    head = make_rcnn()
    images = [ground_truth([[0.0, 0.0, 8.0, 8.0], [10.0, 2.0, 20.0, 12.0]]), ground_truth([])]
    images.append(ground_truth([[16.0, 8.0, 32.0, 16.0]], classes=[2]))
    proposals = [Instances(SIZE, proposal_boxes=Boxes([[0.0, 9.0, 8.0, 16.0]]))] * 3
    drawn = head.sample(proposals, PaddedTruth.from_instances(images))
    assert [s.gt_index[s.gt_classes >= 0].tolist() for s in drawn] == [[0, 1, -1], [-1], [0, -1]]


def test_detections_carry_masks_of_their_class():
    head = make_rcnn()
    nn.init.zeros_(head.mask_head.predictor.weight)
    head.mask_head.predictor.bias.data = torch.tensor([-1.0, 0.0, 1.0])
    with torch.no_grad():
        detections = head.inference([torch.randn(2, 8, 2, 4)], [SIZE] * 2)
    for found in detections:
        assert len(found) == 5
        expected = (found.pred_classes - 1.0).sigmoid()[:, None, None, None].expand(-1, 1, 4, 4)
        torch.testing.assert_close(found.pred_masks, expected)


def test_without_a_mask_head_no_masks_are_needed_or_made():
    head = make_rcnn()
    head.mask_head = None
    assert "loss_mask" not in head([torch.randn(1, 8, 2, 4)], [SIZE], [ground_truth([])]).losses
    with torch.no_grad():
        (found,) = head.inference([torch.randn(1, 8, 2, 4)], [SIZE])
    assert not found.has("pred_masks")
