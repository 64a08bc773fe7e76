"""ATSS by hand: the matching rule, centerness, normalizers, and the dense head around them."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.modeling.aux_heads import atss
from co_detr.modeling.aux_heads.anchors import PyramidAnchors
from co_detr.modeling.aux_heads.atss import ATSSHead, atss_match
from co_detr.modeling.aux_heads.centerness import centerness
from co_detr.modeling.losses import normalize

FAR = [20.0, 0.0, 30.0, 10.0]
FARTHER = [30.0, 0.0, 40.0, 10.0]
BOX = [0.0, 0.0, 10.0, 10.0]


def match(levels, *gt_boxes, valid=None, num_candidates=9):
    """Match anchors given as lists, per level; return the matches as lists, per image."""
    levels = [torch.tensor(level) for level in levels]
    if valid is None:
        valid = [[True] * sum(len(level) for level in levels)] * len(gt_boxes)
    boxes = [torch.tensor(b).view(-1, 4) for b in gt_boxes]
    return atss_match(levels, torch.tensor(valid), boxes, num_candidates).tolist()


@pytest.mark.parametrize("overlap, expected", [(0.4, 0), (0.7, -1)])
def test_the_threshold_is_the_mean_plus_the_unbiased_deviation(overlap, expected):
    """IoUs (1, t, 0): the threshold is .467 + .503 = .970 for t = .4, and .567 + .513 = 1.080 for
    t = .7, which nothing reaches. (The biased deviation would give .986 there.)"""
    got = match([[BOX, [0.0, 0.0, 10.0, 10 * overlap], FAR]], [BOX])
    assert got == [[expected, -1, -1]]


@pytest.mark.parametrize("bottom, expected", [(19.96, 0), (20.0, -1)])
def test_the_centre_of_a_positive_anchor_is_inside_the_box(bottom, expected):
    """IoUs (.5, 0, 0): threshold .455. The centre is .02 above the lower edge, or on it."""
    got = match([[[0.0, 0.0, 10.0, bottom], FAR, FARTHER]], [BOX])
    assert got == [[expected, -1, -1]]


@pytest.mark.parametrize("order, expected", [((0, 1), 0), ((1, 0), 1)])
def test_an_anchor_between_two_boxes_goes_to_the_one_it_overlaps_most(order, expected):
    """IoU .9 with the taller box, .889 with the other one; positive for both."""
    boxes = [BOX, [0.0, 0.0, 10.0, 8.0]]
    got = match([[[0.0, 0.0, 10.0, 9.0], FAR, FARTHER]], [boxes[i] for i in order])
    assert got == [[expected, -1, -1]]


def test_of_equal_boxes_the_first_gets_the_anchor():
    assert match([[BOX, FAR, FARTHER]], [BOX, BOX]) == [[0, -1, -1]]


def test_candidates_are_the_closest_centres_of_each_level():
    """One per level, IoUs (1, .4, 0): the near misses of the first two levels do not take part.
    With all five, IoU .818 counts as well and no anchor reaches the threshold."""
    shifted = [1.0, 0.0, 11.0, 10.0]
    levels = [[shifted, BOX], [[0.0, 0.0, 10.0, 4.0], [0.0, 0.0, 10.0, 3.0]], [FAR]]
    assert match(levels, [BOX], num_candidates=1) == [[-1, 0, -1, -1, -1]]
    iou = torch.tensor([9 / 11, 1, 0.4, 0.3, 0])
    expected = [0 if value >= iou.mean() + iou.std() else -1 for value in iou]
    assert match(levels, [BOX]) == [expected]


def test_anchors_in_the_padding_are_no_candidates():
    """Without the perfect anchor the IoUs are (.4, 0): one of two never reaches the threshold."""
    levels = [[BOX, [0.0, 0.0, 10.0, 4.0], FAR]]
    assert match(levels, [BOX], valid=[[False, True, True]]) == [[-1, -1, -1]]
    assert match(levels, [BOX], valid=[[False, True, False]]) == [[-1, 0, -1]]
    assert match(levels, [BOX], valid=[[False, False, False]]) == [[-1, -1, -1]]


def test_matches_point_into_the_boxes_of_the_image():
    levels, other = [[BOX, FAR, FARTHER]], [0.0, 0.0, 10.0, 9.0]
    got = match(levels, [other, FAR], [], [FARTHER, BOX])
    assert got == [[0, 1, -1], [-1, -1, -1], [1, -1, 0]]
    assert match(levels, [], []) == [[-1] * 3] * 2


def test_a_crowd_is_matched_the_same_in_portions(monkeypatch):
    torch.manual_seed(0)
    corner = torch.rand(60, 2) * 60
    boxes = torch.cat([corner, corner + 4 + torch.rand(60, 2) * 20], dim=1)
    levels = [torch.rand(cells, 2) * 60 for cells in (80, 20)]
    levels = [torch.cat([c - size, c + size], dim=1) for c, size in zip(levels, (6, 12))]
    valid = torch.rand(3, 100) > 0.2
    batch = [boxes[:50], boxes[:0], boxes[50:]]
    at_once = atss_match(levels, valid, batch)
    assert len(at_once.unique()) > 20
    for limit in (1, 7 * 80):  # one box, seven of them: some portions hold boxes of two images
        monkeypatch.setattr(atss, "DISTANCES_AT_ONCE", limit)
        assert torch.equal(atss_match(levels, valid, batch), at_once)


@pytest.mark.parametrize(
    "centre, expected", [((5, 5), 1.0), ((2, 5), 0.5), ((2, 8), 0.25), ((1, 5), math.sqrt(1 / 9))]
)
def test_centerness_is_the_root_of_both_ratios(centre, expected):
    x, y = centre
    anchor = torch.tensor([[x - 3.0, y - 3.0, x + 3.0, y + 3.0]])
    assert centerness(anchor, torch.tensor([BOX])).item() == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- anchors


def test_anchors_run_through_the_scales_of_each_ratio_around_the_corner_of_the_cell():
    anchors = PyramidAnchors(strides=(8,), scale=2, scales_per_octave=2, aspect_ratios=(0.25, 1))
    (level,) = anchors([torch.zeros(1, 1, 1, 2)])
    side = 16 * math.sqrt(2)
    half = torch.tensor([[16.0, 4.0], [side, side / 4], [8.0, 8.0], [side / 2, side / 2]])
    first = torch.cat([-half, half], dim=1)
    torch.testing.assert_close(level[:4], first, atol=1e-4, rtol=0)
    torch.testing.assert_close(level[4:], first + torch.tensor([8.0, 0, 8, 0]), atol=1e-4, rtol=0)


def test_a_cell_is_valid_where_it_touches_the_image():
    anchors = PyramidAnchors(strides=(8, 16), scale=4, aspect_ratios=(1, 2))
    features = [torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 2, 2)]
    fine, coarse = anchors.valid(features, [(17, 16), (24, 32)]).split([24, 8], dim=1)
    assert fine[0].view(3, 4, 2)[:, :2].all() and not fine[0].view(3, 4, 2)[:, 2:].any()
    assert coarse[0].view(2, 2, 2)[:, :1].all() and not coarse[0].view(2, 2, 2)[:, 1:].any()
    assert fine[1].all() and coarse[1].all()


def test_padding_to_a_multiple_counts_as_valid():
    anchors = PyramidAnchors(strides=[8], scale=4, pad_multiple=16)
    (valid,) = anchors.valid([torch.zeros(1, 1, 4, 6)], [(17, 30)])
    assert valid.view(4, 6).sum(0).tolist() == [4, 4, 4, 4, 0, 0]  # as if 32 x 32


# ---------------------------------------------------------------- the head


def blank_head(**kwargs):
    """A head whose outputs are all zero: probability .5, centerness .5, boxes = anchors."""
    head = ATSSHead(
        in_channels=32,
        num_classes=2,
        strides=(8,),
        anchor_scale=1.25,
        loss_weight=1.0,
        **kwargs,
    )
    for predictor in (head.class_predictor, head.box_predictor, head.quality_predictor):
        torch.nn.init.zeros_(predictor.weight)
        torch.nn.init.zeros_(predictor.bias)
    return head


def truth(*boxes_per_image):
    return [
        Instances((24, 24), gt_boxes=Boxes(b), gt_classes=torch.ones(len(b), dtype=torch.long))
        for b in boxes_per_image
    ]


def test_losses_of_a_blank_head():
    """Anchors of side 10 at (8 i, 8 j). The first image holds the one at (8, 8), moved right by 1:
    IoU 90 / 110, alone above its threshold; centerness 4 / 6 in x, so sqrt(2 / 3). The second image
    is empty and counts as one positive."""
    losses = blank_head()([torch.zeros(2, 32, 3, 3)], [(24, 24)] * 2, truth([[4, 3, 14, 13]], []))
    terms, quality = losses.losses, math.sqrt(2 / 3)
    assert float(terms["loss_class"].count) == float(terms["loss_centerness"].count) == 2
    # Focal loss at probability .5: ln 2 / 4, times .75 for 35 negatives and .25 for the positive.
    focal = (0.75 * 35 + 0.25) * math.log(2) / 4
    assert terms["loss_class"].total.item() == pytest.approx(focal, rel=1e-5)
    # Enclosing box 11 x 10 = the union: GIoU = IoU.
    assert terms["loss_box"].total.item() == pytest.approx(2 * (1 - 9 / 11) * quality, rel=1e-5)
    assert float(terms["loss_box"].count) == pytest.approx(quality, rel=1e-5)
    assert terms["loss_centerness"].total.item() == pytest.approx(math.log(2), rel=1e-5)
    # The sum of centerness is below 1, where the normalizer stops.
    assert normalize(terms)["loss_box"].item() == pytest.approx(4 / 11 * quality, rel=1e-5)


def test_anchors_in_the_padding_are_background_samples_without_place_and_without_loss():
    """8 x 24 pixels are valid: one row of three anchors, of which none is positive."""
    features = [torch.randn(1, 32, 3, 3)]
    output = blank_head()(features, [(8, 24)], truth([]))
    samples = output.samples[0]
    assert samples.gt_classes.tolist() == [2] * 9
    assert samples.proposal_boxes.tensor[0].tolist() == [-5, -5, 5, 5]
    assert samples.proposal_boxes.tensor[:3].any(dim=1).all()
    assert not samples.proposal_boxes.tensor[3:].any()
    assert torch.equal(samples.features, features[0][0].flatten(1).T)
    focal = 0.75 * 6 * math.log(2) / 4
    assert output.losses["loss_class"].total.item() == pytest.approx(focal, rel=1e-5)


@torch.no_grad()
def test_detections_are_ranked_by_class_times_centerness_and_suppressed_within_a_class():
    head = blank_head(nms_threshold=0.5, detections_per_image=3)
    logits = torch.full((1, 9, 2), -20.0)
    quality = torch.zeros(1, 9)
    deltas = torch.zeros(1, 9, 4)
    logits[0, 4, 0], quality[0, 4] = 2.0, 0.0  # .881 * .5 = .440
    logits[0, 5, 0], quality[0, 5] = 1.0, 1.0  # .731 * .731 = .534, moved onto the former
    deltas[0, 5, 0] = -8.0  # in tenths of the width of 10
    logits[0, 4, 1] = 0.0  # .5 * .5 = .25, another class in the same place
    predictions = type(head.predict([torch.zeros(1, 32, 3, 3)]))(logits, deltas, quality)
    head.predict = lambda features: predictions
    (got,) = head.inference([torch.zeros(1, 32, 3, 3)], [(24, 24)])
    assert got.pred_classes.tolist()[:2] == [0, 1]
    assert got.scores[:2].tolist() == pytest.approx([0.5344, 0.25], abs=1e-3)
    assert got.pred_boxes.tensor[0].tolist() == pytest.approx([3, 3, 13, 13], abs=1e-4)
    assert got.scores[2] < 1e-6


@torch.no_grad()
def test_detections_without_area_take_their_place_until_the_end():
    """The anchor at (8, 8) moved out of the image is the best detection, and a line."""
    head = blank_head(detections_per_image=2)
    logits = torch.full((1, 9, 2), -20.0)
    logits[0, 4, 0], logits[0, 0, 0] = 2.0, 1.0
    deltas = torch.zeros(1, 9, 4)
    deltas[0, 4, 0] = 40.0  # in tenths of the width of 10
    predictions = type(head.predict([torch.zeros(1, 32, 3, 3)]))(logits, deltas, torch.zeros(1, 9))
    head.predict = lambda features: predictions
    (got,) = head.inference([torch.zeros(1, 32, 3, 3)], [(24, 24)])
    assert got.pred_boxes.tensor.tolist() == [
        pytest.approx([24, 3, 24, 13]),
        pytest.approx([0, 0, 5, 5]),
    ]
    assert got.scores[0] > got.scores[1]
