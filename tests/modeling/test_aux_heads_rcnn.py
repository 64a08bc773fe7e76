"""RPN and RoI head by hand: labels, proposals, sampling, normalizers."""

import math
from contextlib import nullcontext

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances

from co_detr.engine.host_syncs import HostSyncs
from co_detr.modeling.aux_heads.rcnn import BoxHead, FasterRCNNHead
from co_detr.modeling.aux_heads.roi_pooler import PyramidPooler
from co_detr.modeling.aux_heads.rpn import RPN
from co_detr.modeling.aux_heads.truth import BACKGROUND, IGNORED, PaddedTruth

BOX = [0.0, 0.0, 10.0, 10.0]
FAR = [100.0, 0.0, 110.0, 10.0]


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_rpn(**kwargs):
    return RPN(in_channels=8, strides=(8,), **kwargs)


def make_head(**kwargs):
    box_head = BoxHead(in_channels=8, num_classes=3, strides=(8,), resolution=2, fc_dim=4)
    return FasterRCNNHead(rpn=make_rpn(), box_head=box_head, **kwargs)


def label(anchors, boxes, valid=None):
    """Matches, and 1 for positive, 0 for negative, -1 for ignored anchors."""
    valid = torch.tensor([valid if valid is not None else [True] * len(anchors)])
    truth = PaddedTruth.from_instances(
        [Instances((200, 200), gt_boxes=Boxes(boxes), gt_classes=torch.zeros(len(boxes)).long())]
    )
    (matches,) = make_rpn().match(torch.tensor(anchors), valid, truth).tolist()
    return matches, [{BACKGROUND: 0, IGNORED: -1}.get(match, 1) for match in matches]


# ---------------------------------------------------------------- RPN labels


def test_anchors_are_positive_from_07_on_and_negative_below_03():
    anchors = [[0.0, 0.0, 10.0, h] for h in (10.0, 7.0, 6.9, 3.0, 2.9)] + [FAR]
    assert label(anchors, [BOX])[1] == [1, 1, -1, -1, 0, 0]


@pytest.mark.parametrize("height, expected", [(5.0, 1), (3.0, 1), (2.9, 0)])
def test_the_best_anchor_of_a_box_is_positive_from_03_on(height, expected):
    assert label([[0.0, 0.0, 10.0, height], FAR], [BOX])[1] == [expected, 0]


def test_all_anchors_that_tie_for_the_best_are_positive():
    upper, lower = [0.0, 0.0, 10.0, 5.0], [0.0, 5.0, 10.0, 10.0]
    assert label([upper, lower, FAR], [BOX])[1] == [1, 1, 0]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_best_anchor_of_two_boxes_belongs_to_the_last_one(swapped):
    """IoU .6 with one box, .667 with the other: it is the best for both of them."""
    boxes = [BOX, [0.0, 0.0, 10.0, 4.0]]
    matches, labels = label([[0.0, 0.0, 10.0, 6.0], FAR], boxes[::-1] if swapped else boxes)
    assert (matches[0], labels) == (1, [1, 0])


def test_an_anchor_in_the_padding_is_ignored_and_not_the_best_of_a_box():
    anchors = [BOX, [0.0, 0.0, 10.0, 5.0], FAR]
    assert label(anchors, [BOX], valid=[False, True, False])[1] == [-1, 1, -1]


def test_without_boxes_all_anchors_are_negative():
    assert label([BOX, FAR], [])[1] == [0, 0]


# ---------------------------------------------------------------- RPN losses and proposals


def test_losses_of_a_blank_rpn_count_one_positive_per_image_without_boxes():
    """All logits 0: ln 2 per sampled anchor. The first image has 4 samples, half of them positive;
    the second one 4 negatives, and counts for 5."""
    rpn = make_rpn(samples_per_image=4, anchor_scale=1, scales_per_octave=1, aspect_ratios=(1,))
    for layer in (rpn.objectness_logits, rpn.anchor_deltas):
        torch.nn.init.zeros_(layer.weight)
    moved = [
        [8.0 * x - 2, 8.0 * y - 4, 8.0 * x + 6, 8.0 * y + 4] for x in (0, 1) for y in (0, 1, 2)
    ]
    truth = [
        Instances((24, 24), gt_boxes=Boxes(b), gt_classes=torch.zeros(len(b), dtype=torch.long))
        for b in (moved, [])
    ]
    _, losses = rpn([torch.randn(2, 8, 3, 3)], [(24, 24)] * 2, PaddedTruth.from_instances(truth))
    assert losses["loss_rpn_class"].total.item() == pytest.approx(8 * math.log(2), rel=1e-5)
    # Each box is an anchor moved right by a quarter of its width.
    assert losses["loss_rpn_box"].total.item() == pytest.approx(2 * 0.25, rel=1e-5)
    assert losses["loss_rpn_class"].count == losses["loss_rpn_box"].count == 4 + 5


def propose(levels, logits, size=(50, 200), pre=9, post=9):
    levels = [torch.tensor(level) for level in levels]
    logits = torch.tensor([logits])
    deltas = torch.zeros(*logits.shape, 4)
    (got,) = make_rpn().propose(levels, logits, deltas, [size], pre, post)
    got = got[got.proposal_boxes.nonempty()]  # the others fill up
    return got.proposal_boxes.tensor.tolist(), got.objectness_logits.tolist()


def test_proposals_are_suppressed_within_their_level_only():
    assert propose([[BOX, BOX], [FAR]], [0.1, 0.3, 0.2]) == (
        [BOX, FAR],
        pytest.approx([0.3, 0.2]),
    )
    assert propose([[BOX], [BOX]], [0.1, 0.3]) == ([BOX, BOX], pytest.approx([0.3, 0.1]))


def test_proposals_are_cut_per_level_before_and_per_image_after_suppression():
    levels = [[[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(4)], [FAR]]
    logits = [0.4, 0.2, 0.5, 0.3, 0.1]
    assert propose(levels, logits, pre=2)[1] == pytest.approx([0.5, 0.4, 0.1])
    assert propose(levels, logits, post=3)[1] == pytest.approx([0.5, 0.4, 0.3])


def test_proposals_are_clipped_and_those_outside_the_image_dropped():
    levels = [[[-5.0, 40.0, 10.0, 60.0], [0.0, 50.0, 10.0, 60.0], FAR]]
    assert propose(levels, [0.1, 0.2, 0.3], size=(50, 105)) == (
        [[100.0, 0.0, 105.0, 10.0], [0.0, 40.0, 10.0, 50.0]],
        pytest.approx([0.3, 0.1]),
    )


def test_images_have_equally_many_proposals_and_nothing_fills_up():
    """Each image could have four; of the first two are twins, and one lies outside."""
    anchors = [torch.tensor([BOX, BOX, FAR, [0.0, 60.0, 10.0, 70.0]])]
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.9]] * 2)
    deltas = torch.zeros(2, 4, 4)
    deltas[1, 0, 0] = 2.0  # by two widths, away from its twin
    got = make_rpn().propose(anchors, logits, deltas, [(50, 200)] * 2, 9, 9)
    nothing, moved = [0.0] * 4, [20.0, 0.0, 30.0, 10.0]
    assert got[0].proposal_boxes.tensor.tolist() == [BOX, FAR, nothing, nothing]
    assert got[1].proposal_boxes.tensor.tolist() == [moved, BOX, FAR, nothing]
    assert got[0].objectness_logits.tolist() == pytest.approx([0.4, 0.2, -math.inf, -math.inf])


# ---------------------------------------------------------------- RoI samples and losses


def sample(head, *images):
    """Sample from images given as (proposals, boxes, classes); what fills up is left out."""
    size = (50, 200)
    proposals = [Instances(size, proposal_boxes=Boxes(p)) for p, _, _ in images]
    gt = [
        Instances(size, gt_boxes=Boxes(b), gt_classes=torch.tensor(c).long()) for _, b, c in images
    ]
    return [s[s.gt_classes >= 0] for s in head.sample(proposals, PaddedTruth.from_instances(gt))]


def test_samples_are_ground_truth_then_positive_then_negative_proposals():
    proposals = [FAR, [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.9], [0.0, 1.0, 10.0, 10.0]]
    (got,) = sample(make_head(positive_fraction=0.9), (proposals, [BOX], [2]))
    assert got.proposal_boxes.tensor.tolist() == [
        BOX,
        proposals[1],
        proposals[3],
        proposals[0],
        pytest.approx(proposals[2]),
    ]
    assert got.gt_classes.tolist() == [2, 2, 2, 3, 3]
    assert got.gt_boxes.tensor.tolist() == [BOX] * 3 + [[0.0] * 4] * 2


def test_equal_boxes_of_two_classes_are_both_samples_of_their_own_class():
    (got,) = sample(make_head(), ([FAR], [BOX, BOX], [0, 1]))
    assert got.gt_classes.tolist() == [0, 1, 3]


def test_boxes_of_another_image_do_not_count():
    images = ([BOX, FAR], [FAR], [0]), ([BOX], [], []), ([FAR, BOX], [BOX], [1])
    got = sample(make_head(positive_fraction=0.9), *images)
    assert [g.gt_classes.tolist() for g in got] == [[0, 0, 3], [3], [1, 1, 3]]
    assert got[0].gt_boxes.tensor.tolist() == [FAR, FAR, [0.0] * 4]
    assert got[2].gt_boxes.tensor.tolist() == [BOX, BOX, [0.0] * 4]


def test_positives_take_no_more_than_their_fraction_of_the_samples():
    head = make_head(samples_per_image=8, positive_fraction=0.25)
    (got,) = sample(head, ([BOX] * 20 + [FAR] * 20, [BOX], [1]))
    assert got.gt_classes.tolist() == [1] * 2 + [3] * 6


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_are_divided_by_all_samples_and_boxes_are_those_of_the_class(agnostic):
    """Uniform logits over 3 classes and background: ln 4 per sample. The box of class 1 moves the
    proposal right by a tenth of its width, onto its target: GIoU loss 0 there, 2 / 11 elsewhere.
    """
    head = make_head()
    samples = [
        Instances(
            (50, 200),
            proposal_boxes=Boxes([BOX, BOX, FAR]),
            gt_classes=torch.tensor([0, 1, 3]),
            gt_boxes=Boxes([[1.0, 0.0, 11.0, 10.0]] * 2 + [[0.0] * 4]),
        )
    ]
    deltas = torch.zeros(3, 1 if agnostic else 3, 4)
    deltas[:, -1 if agnostic else 1, 0] = 1.0
    losses = head.losses(torch.zeros(3, 4), deltas, samples)
    assert losses["loss_class"].total.item() == pytest.approx(3 * math.log(4), rel=1e-5)
    expected = 0.0 if agnostic else 10 * (1 - 9 / 11)
    assert losses["loss_box"].total.item() == pytest.approx(expected, abs=1e-4)
    assert losses["loss_class"].count == losses["loss_box"].count == 3


def test_ignored_samples_change_no_loss():
    head = make_head()
    samples = Instances(
        (50, 200),
        proposal_boxes=Boxes([BOX, FAR]),
        gt_classes=torch.tensor([1, 3]),
        gt_boxes=Boxes([[1.0, 0.0, 11.0, 10.0], [0.0] * 4]),
    )
    ignored = Instances(
        (50, 200),
        proposal_boxes=Boxes([[0.0] * 4] * 3),
        gt_classes=torch.tensor([-1] * 3),
        gt_boxes=Boxes([[0.0] * 4] * 3),
    )
    logits, deltas = torch.randn(5, 4, requires_grad=True), torch.randn(5, 3, 4, requires_grad=True)
    expected = head.losses(logits[:2], deltas[:2], [samples])
    got = head.losses(logits, deltas, [samples, ignored])
    for name, term in got.items():
        torch.testing.assert_close(term.total, expected[name].total)
        assert term.count == expected[name].count == 2
    sum(term.total for term in got.values()).backward()
    assert logits.grad[:2].any() and not logits.grad[2:].any()
    assert deltas.grad[0].any() and not deltas.grad[1:].any()


def test_larger_boxes_are_pooled_from_coarser_levels():
    head = BoxHead(
        in_channels=1, num_classes=2, strides=(8, 16, 32), finest_scale=56, resolution=1, fc_dim=4
    )
    features = [torch.full((1, 1, 512 // s, 512 // s), float(s)) for s in (8, 16, 32, 64)]
    sides = [20, 56, 111, 113, 223, 225, 500]
    boxes = Boxes([[0.0, 0.0, side, side] for side in sides])
    _, _, pooled = head(features, [boxes])
    assert pooled.flatten().tolist() == pytest.approx([8, 8, 8, 16, 16, 32, 32], abs=1e-3)


@torch.no_grad()
def test_detections_are_the_best_classes_of_each_proposal_above_the_threshold():
    head = make_head(score_threshold=0.2, nms_threshold=0.5)
    head.rpn.inference = lambda *_: [
        Instances((50, 200), proposal_boxes=Boxes([BOX, [0.0, 0.0, 10.0, 9.0], FAR]))
    ]
    logits = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.6, 0.1, 0.1, 0.2], [0.1, 0.1, 0.1, 0.7]]).log()
    head.box_head.forward = lambda *_: (logits, torch.zeros(3, 3, 4), None)
    (got,) = head.inference([torch.zeros(1, 8, 2, 2)], [(50, 200)])
    assert got.scores.tolist() == pytest.approx([0.6, 0.3])
    assert got.pred_classes.tolist() == [0, 1]
    assert got.pred_boxes.tensor.tolist() == [[0.0, 0.0, 10.0, 9.0], BOX]


# ---------------------------------------------------------------- RoI pooling


@pytest.mark.parametrize("watched", [False, True])  # True: what runs on other devices
@pytest.mark.parametrize("scales", [(1 / 8, 1 / 16, 1 / 32), (1 / 8,)])
def test_pooling_has_the_gradient_of_the_pooler_it_replaces(scales, watched):
    maps = [torch.rand(3, 5, int(s * 96) + 1, int(s * 128) + 1, requires_grad=True) for s in scales]
    corner = torch.rand(20, 2) * 140 - 20
    boxes = [
        Boxes(torch.cat([corner, corner + torch.rand(20, 2) ** 2 * 150], dim=1)),
        Boxes([]),
        Boxes(
            [
                [0.0, 40.0, 128.0, 44.0],  # many sampling points along one axis
                [-300.0, -200.0, 400.0, 300.0],  # larger than the map
                [200.0, 200.0, 260.0, 260.0],  # outside
                [50.0, 50.0, 50.0, 60.0],  # no area
                [30.0, 30.0, 30.5, 30.5],
            ]
        ),
    ]
    options = {"scales": scales, "canonical_box_size": 28, "canonical_level": 3}
    pooler = PyramidPooler(output_size=3, **options)
    reference = ROIPooler(3, sampling_ratio=0, pooler_type="ROIAlignV2", **options)
    for part in (boxes, [Boxes([])] * 3, [boxes[2][3:4]] * 3):
        with HostSyncs() if watched else nullcontext() as syncs:
            got = pooler(maps, part)
        assert not watched or syncs.total == (len(scales) > 1)
        expected = reference(maps, part)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        if len(expected):
            weights = torch.rand_like(expected)
            got = torch.autograd.grad((got * weights).sum(), maps)
            expected = torch.autograd.grad((expected * weights).sum(), maps)
            for g, e in zip(got, expected):
                torch.testing.assert_close(g, e, atol=1e-5, rtol=1e-4)


def test_pooling_does_not_lower_its_precision_under_autocast():
    torch.manual_seed(0)
    pooler = PyramidPooler(
        output_size=3, scales=[1 / 8, 1 / 16], canonical_box_size=112, canonical_level=3
    )
    maps = [torch.randn(1, 4, side, side, requires_grad=True) for side in (16, 8)]
    boxes = [Boxes(torch.tensor([[3.0, 4, 60, 70], [10, 20, 128, 120]]))]
    expected = pooler(maps, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooler(maps, boxes)
    assert torch.equal(pooled, expected)
    pooled.sum().backward()
