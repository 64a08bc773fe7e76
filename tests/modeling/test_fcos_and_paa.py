"""FCOS's and PAA's rules by hand: points in boxes, mixtures of losses, voting."""

import itertools
import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.modeling.aux_heads import fcos, max_iou
from co_detr.modeling.aux_heads.fcos import FCOSHead, fcos_match
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.mixture import fit_mixtures
from co_detr.modeling.aux_heads.paa import PAAHead, best_candidates, separate, vote
from co_detr.modeling.aux_heads.truth import PaddedTruth
from co_detr.ops.boxes import giou_loss

LARGE = [0.0, 0.0, 40.0, 40.0]
SMALL = [0.0, 0.0, 20.0, 20.0]


def truth(*images):
    return PaddedTruth.from_instances(
        [
            Instances((64, 64), gt_boxes=Boxes(b), gt_classes=torch.zeros(len(b)).long())
            for b in images
        ]
    )


def match(points, *images, sizes=(0.0, math.inf), reach=None):
    """Match points, which are centres of anchors of any size."""
    points = torch.tensor(points)
    anchors = torch.cat([points - 7, points + 7], dim=1)
    sizes = torch.tensor(sizes).expand(len(points), 2)
    reach = reach and torch.full((len(points),), reach)
    return fcos_match(anchors, truth(*images), sizes=sizes, reach=reach).tolist()


# ---------------------------------------------------------------- FCOS


def test_a_point_belongs_to_the_smallest_box_that_it_is_strictly_inside_of():
    points = [[10.0, 10.0], [30.0, 30.0], [20.0, 10.0], [40.0, 10.0], [50.0, 50.0]]
    assert match(points, [LARGE, SMALL], [], [SMALL]) == [
        [1, 0, 0, -1, -1],
        [-1] * 5,
        [0, -1, -1, -1, -1],
    ]


def test_of_boxes_of_one_size_the_first_gets_the_point():
    wide, high = [0.0, 0.0, 40.0, 10.0], [0.0, 0.0, 10.0, 40.0]
    assert match([[5.0, 5.0]], [wide, high], [high, wide]) == [[0], [0]]


@pytest.mark.parametrize(
    "sizes, expected", [((0, 30), 0), ((0, 29.9), -1), ((30, 64), 0), ((30.1, 64), -1)]
)
def test_the_farthest_side_decides_on_the_level(sizes, expected):
    """30 pixels to the right and to the lower side; both ends of the range fit."""
    assert match([[10.0, 10.0]], [LARGE], sizes=sizes) == [[expected]]


def test_a_box_of_another_size_does_not_stand_in_the_way_of_a_larger_one():
    assert match([[10.0, 10.0]], [SMALL, LARGE], sizes=(20, 64)) == [[1]]


@pytest.mark.parametrize("x, expected", [(8.1, 0), (8.0, -1), (31.9, 0), (32.0, -1)])
def test_points_are_close_to_the_centre(x, expected):
    assert match([[x, 20.0]], [LARGE], reach=12.0) == [[expected]]


def test_a_reach_beyond_the_box_ends_at_the_box():
    assert match([[19.9, 10.0], [20.0, 10.0]], [SMALL], reach=12.0) == [[0, -1]]


def test_matches_do_not_depend_on_how_many_boxes_are_looked_at_at_once(monkeypatch):
    torch.manual_seed(0)
    corner = torch.rand(9, 2) * 40
    boxes = torch.cat([corner, corner + 4 + torch.rand(9, 2) * 20], dim=1)
    batch = truth(boxes[:2], boxes)
    anchors = torch.rand(50, 2) * 60
    anchors = torch.cat([anchors - 8, anchors + 8], dim=1)
    valid = torch.rand(2, 50) > 0.2
    sizes = torch.tensor([[0.0, math.inf]]).expand(50, 2)

    def both():
        by_iou = max_iou.max_iou_match(
            anchors, valid, batch, positive_iou=0.4, negative_iou=0.3, min_positive_iou=0.1
        )
        return torch.stack([fcos_match(anchors, batch, sizes=sizes), by_iou])

    at_once = both()
    assert len(at_once.unique()) > 5
    for limit in (1, 250):
        monkeypatch.setattr(fcos, "OVERLAPS_AT_ONCE", limit)
        monkeypatch.setattr(max_iou, "OVERLAPS_AT_ONCE", limit)
        assert torch.equal(both(), at_once)


def test_a_box_that_no_anchor_overlaps_makes_none_positive():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]])
    batch = truth([[40.0, 40.0, 50.0, 50.0]])
    got = max_iou.max_iou_match(
        anchors, torch.ones(1, 2, dtype=torch.bool), batch, positive_iou=0.5, negative_iou=0.4
    )
    assert got.tolist() == [[-1, -1]]


def fcos_head(**options):
    return FCOSHead(in_channels=32, num_classes=2, strides=(8, 16), **options)


def test_samples_of_fcos_are_boxes_of_eight_strides_around_the_points_padding_and_all():
    features = [torch.zeros(1, 32, 2, 2), torch.zeros(1, 32, 1, 2)]
    instances = Instances((8, 8), gt_boxes=Boxes([[0, 0, 8, 8]]), gt_classes=torch.tensor([1]))
    (samples,) = fcos_head()(features, [(8, 8)], [instances]).samples
    boxes = samples.proposal_boxes.tensor
    assert boxes[0].tolist() == [4 - 32, 4 - 32, 4 + 32, 4 + 32]
    assert boxes[3].tolist() == [12 - 32, 12 - 32, 12 + 32, 12 + 32]
    assert boxes[4].tolist() == [8 - 64, 8 - 64, 8 + 64, 8 + 64]
    assert samples.gt_classes.tolist() == [1, 2, 2, 2, 2, 2]


def test_levels_of_fcos_begin_at_eight_strides_unless_told():
    assert fcos_head().sizes == [(0, 64), (64, math.inf)]
    assert fcos_head(max_sizes=[30]).sizes == [(0, 30), (30, math.inf)]
    with pytest.raises(ValueError, match=r"max_sizes=\[30, 60\] for 2 levels"):
        fcos_head(max_sizes=[30, 60])


@pytest.mark.parametrize("option", ["box_activation", "quality_tower"])
def test_unknown_options_of_fcos_are_refused_by_name(option):
    with pytest.raises(ValueError, match=f"{option} must be .*'sideways'"):
        fcos_head(**{option: "sideways"})


@pytest.mark.parametrize(
    "activation, expected",
    [("relu", [4 - 16, 4, 4 + 8, 4]), ("exp", [4 - math.e**2, 3, 4 + math.e, 4 + 1 / math.e])],
)
def test_distances_are_strides_or_exponents_of_pixels(activation, expected):
    """(2, 0, 1, -1) around (4, 4)."""
    head = fcos_head(box_activation=activation)
    boxes = head.decode(torch.tensor([[2.0, 0.0, 1.0, -1.0]]), torch.tensor([[-28.0, -28, 36, 36]]))
    assert boxes[0].tolist() == pytest.approx(expected)


def test_a_huge_exponent_leaves_losses_and_gradients_finite():
    head = fcos_head(box_activation="exp")
    regression = torch.tensor([[60.0, 0.0, 200.0, -1.0]], requires_grad=True)
    boxes = head.decode(regression, torch.tensor([[-28.0, -28, 36, 36]]))
    assert boxes[0].tolist() == pytest.approx([4 - 1e5, 3, 4 + 1e5, 4 + 1 / math.e])
    (giou_loss(boxes, torch.tensor([[0.0, 0, 8, 8]])) * 0).sum().backward()
    assert regression.grad.isfinite().all()


# ---------------------------------------------------------------- GFL


@pytest.mark.parametrize(
    "distance, shares", [(1.25, (0, 0.75, 0.25)), (2.0, (0, 0.1, 0.9)), (-1.0, (1, 0, 0))]
)
def test_the_distribution_is_drawn_to_the_two_bins_around_the_distance(distance, shares):
    """Three bins; beyond the last but a tenth, and below the first, distances count as there."""
    head = GFLHead(in_channels=32, num_classes=2, strides=(8,), max_distance=2)
    logits = torch.tensor([0.3, -0.2, 0.9])
    loss = head.distribution_loss(logits.repeat(4), torch.full((4,), distance))
    expected = -(logits.log_softmax(0) * torch.tensor(shares)).sum()
    torch.testing.assert_close(loss, expected.expand(4))


# ---------------------------------------------------------------- PAA


def test_candidates_are_the_lowest_losses_of_each_level():
    losses = torch.tensor([[3.0, 1.0, 2.0, 0.5, 9.0, 4.0]])
    matches = torch.tensor([[0, 0, 0, 1, 0, 0]])
    lowest, index = best_candidates(losses, matches, [4, 2], num_objects=2, per_level=2)
    assert lowest.tolist() == [[[1, 2, 4, 9], [0.5, math.inf, math.inf, math.inf]]]
    assert index[0, 0].tolist() == [1, 2, 5, 4]
    assert index[0, 1, 0] == 3


def test_candidates_are_what_a_search_per_object_finds():
    """Objects with many, few and no anchors; background, ignored anchors and a level of one."""
    torch.manual_seed(0)
    losses = torch.rand(3, 41)
    matches = torch.randint(-2, 4, (3, 41))
    matches[matches == 2] = 0
    sizes, G, k = [30, 10, 1], 5, 4
    lowest, index = best_candidates(losses, matches, sizes, G, k)
    assert lowest.shape == index.shape == (3, G, 4 + 4 + 1)
    for image, number in itertools.product(range(3), range(G)):
        found, start = [], 0
        for size in sizes:
            own = [a for a in range(start, start + size) if matches[image, a] == number]
            found += sorted(own, key=lambda a: losses[image, a].item())[:k]
            start += size
        found.sort(key=lambda a: losses[image, a].item())
        real = lowest[image, number].isfinite()
        assert index[image, number][real].tolist() == found
        assert torch.equal(lowest[image, number][real], losses[image, found])
        assert real.sum() == len(found)


def test_two_clear_groups_are_told_apart():
    """The lower group, up to where the mixture is densest: its middle, which comes twice."""
    losses = np.array([[1.0, 1.1, 1.1, 1.2, 9.0, 9.1, 9.2], [5.0] + [np.inf] * 6, [np.inf] * 7])
    assert separate(losses[None]).astype(int).tolist() == [
        [[1, 1, 0, 0, 0, 0, 0], [0] * 7, [0] * 7]
    ]


def test_a_component_of_one_number_keeps_its_least_variance():
    """What float32 turns into a negative variance."""
    x = np.array([[400.0, 500.0, 500.1, 500.2]])
    mixture = fit_mixtures(x, np.ones_like(x, dtype=bool))
    assert mixture.weights[0] == pytest.approx([0.25, 0.75])
    assert mixture.means[0] == pytest.approx([400, 500.1])
    assert mixture.variances[0] == pytest.approx([1e-6, 0.02 / 3 + 1e-6], rel=1e-6)


def test_a_mixture_does_not_depend_on_what_is_fitted_beside_it():
    generator = np.random.default_rng(0)
    x = np.sort(generator.gamma(2.0, 4.0, (6, 20)), axis=1)
    real = np.arange(20) < np.array([20, 3, 11, 2, 20, 7])[:, None]
    together = fit_mixtures(np.where(real, x, 0), real)
    for i, count in enumerate(real.sum(axis=1)):
        alone = fit_mixtures(x[i : i + 1, :count], real[i : i + 1, :count])
        for name in ("weights", "means", "variances"):
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name)[0], rel=1e-9)


def test_equal_losses_and_losses_that_are_not_numbers_do_no_harm():
    positive = separate(np.array([[2.0, 2.0, 2.0, np.inf], [1.0, np.nan, np.nan, np.nan]]))
    assert positive.tolist() == [[True, False, False, False], [False] * 4]


def test_boxes_vote_by_score_and_overlap_within_their_class():
    """IoU 1 and 0.6 weigh 1 and exp(-.16 / .025); the others are elsewhere or of another class."""
    kept = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 9.0]])
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 8], [50, 50, 60, 60], [5, 5, 5, 9]]
    )
    scores = torch.tensor([0.5, 0.4, 0.9, 0.9, 0.3])
    classes = torch.tensor([0, 0, 1, 0, 0])
    voted = vote(kept, torch.tensor([0, 0]), boxes, scores, classes)
    other = 0.4 * math.exp(-0.16 / 0.025)
    bottom = (0.5 * 10 + other * 6) / (0.5 + other)
    assert voted[0].tolist() == pytest.approx([0, 0, 10, bottom])
    assert voted[1].tolist() == kept[1].tolist()  # without area there is nobody, not even itself


def test_scores_of_paa_are_roots_of_class_times_iou_of_the_best_anchors():
    head = PAAHead(in_channels=32, num_classes=2, strides=(8,), candidates_per_level=1)
    with torch.no_grad():
        outputs = head.predict([torch.randn(1, 32, 2, 2)])
        logits = torch.tensor([[[0.0, -1.0], [2.0, -9.0], [1.0, 1.5], [-9.0, -9.0]]])
        quality = torch.tensor([[0.0, -4.0, 1.0, 9.0]])
        outputs = type(outputs)(logits, outputs.regression, quality)
        found = head.candidates(outputs, [4])
    assert (found.anchors.tolist(), found.classes.tolist()) == ([[2, 2]], [[0, 1]])
    expected = (logits[0, 2].sigmoid() * quality[0, 2].sigmoid()).sqrt()
    torch.testing.assert_close(found.scores[0], expected)
