"""Soft-NMS by hand, and against the plain one-by-one procedure of the paper."""

import math

import pytest
import torch

from co_detr.ops.soft_nms import NMS, SoftNMS, soft_nms

LEFT = [0.0, 0.0, 10.0, 10.0]
RIGHT = [10.0, 0.0, 20.0, 10.0]  # touches the left one without overlap
BOTH = [0.0, 0.0, 20.0, 10.0]  # IoU 0.5 with either


def run(rule, boxes, scores, classes=None):
    classes = [0] * len(scores) if classes is None else classes
    kept, lowered = rule(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes))
    return kept.tolist(), pytest.approx(lowered.tolist(), abs=1e-6)


def test_linear_multiplies_by_one_minus_iou():
    kept, scores = run(SoftNMS(iou_threshold=0.3), [BOTH, LEFT], [0.8, 0.9])
    assert kept == [1, 0]
    assert scores == [0.9, 0.4]


@pytest.mark.parametrize("threshold, lowered", [(0.5, 0.4), (0.51, 0.8)])
def test_linear_starts_at_the_threshold_itself(threshold, lowered):
    _, scores = run(SoftNMS(iou_threshold=threshold), [LEFT, BOTH], [0.9, 0.8])
    assert scores == [0.9, lowered]


def test_gaussian_has_no_threshold():
    quarter = [0.0, 0.0, 5.0, 5.0]  # IoU 0.25 with the left one
    rule = SoftNMS(method="gaussian", iou_threshold=0.9, sigma=0.5)
    kept, scores = run(rule, [LEFT, BOTH, quarter, RIGHT], [0.9, 0.8, 0.1, 0.05])
    # `quarter` has IoU 1/8 with `both`; `right` has 0.5 with `both` and none with the others
    assert kept == [0, 1, 2, 3]
    assert scores == [
        0.9,
        0.8 * math.exp(-0.5),
        0.1 * math.exp(-0.125) * math.exp(-1 / 32),
        0.05 * math.exp(-0.5),
    ]


def test_a_lowered_box_is_taken_later_and_lowered_again():
    """`both` would lower `right`, were it not lowered by `left` before its turn."""
    kept, scores = run(SoftNMS(iou_threshold=0.3), [LEFT, BOTH, RIGHT], [0.9, 0.8, 0.6])
    assert kept == [0, 2, 1]
    assert scores == [0.9, 0.6, 0.8 * 0.5 * 0.5]


def test_classes_do_not_meet():
    kept, scores = run(SoftNMS(iou_threshold=0.3), [LEFT, LEFT, BOTH], [0.9, 0.8, 0.7], [1, 0, 1])
    assert kept == [0, 1, 2]
    assert scores == [0.9, 0.8, 0.35]


def test_low_scores_are_dropped():
    rule = SoftNMS(iou_threshold=0.3, min_score=0.25)
    kept, scores = run(rule, [LEFT, BOTH, RIGHT], [0.9, 0.8, 0.6])
    assert kept == [0, 2]
    assert scores == [0.9, 0.6]
    kept, _ = run(rule, [LEFT, [50.0, 50.0, 60.0, 60.0]], [0.9, 0.2])
    assert kept == [0]


def test_a_score_at_the_minimum_is_kept():
    kept, _ = run(SoftNMS(min_score=0.25), [LEFT, RIGHT], [0.9, 0.25])
    assert kept == [0, 1]


def test_the_best_box_of_all_classes_is_never_dropped():
    kept, scores = run(SoftNMS(min_score=0.25), [LEFT, RIGHT, LEFT], [0.1, 0.05, 0.2], [0, 0, 1])
    assert kept == [2]
    assert scores == [0.2]


def test_among_equals_the_first_wins():
    kept, scores = run(SoftNMS(min_score=0.0), [LEFT, LEFT], [0.5, 0.5])
    assert kept == [0, 1]
    assert scores == [0.5, 0.0]
    assert run(SoftNMS(), [LEFT, LEFT], [0.5, 0.5])[0] == [0]


@pytest.mark.parametrize("rule", [SoftNMS(), SoftNMS(method="gaussian"), NMS()])
def test_nothing_in_nothing_out(rule):
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    kept, lowered = rule(boxes, scores, torch.zeros(0, dtype=torch.int64))
    assert kept.shape == lowered.shape == (0,)
    assert kept.dtype == torch.int64


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_boxes_without_area_disturb_nobody(method):
    point = [5.0, 5.0, 5.0, 5.0]
    kept, scores = run(SoftNMS(method=method), [point, point, LEFT], [0.9, 0.8, 0.7])
    assert kept == [0, 1, 2]
    assert scores == [0.9, 0.8, 0.7]


def test_inputs_stay_as_they_are():
    scores = torch.tensor([0.9, 0.8])
    soft_nms(torch.tensor([LEFT, BOTH]), scores, torch.zeros(2, dtype=torch.int64))
    assert scores.tolist() == pytest.approx([0.9, 0.8])


def test_nms_drops_above_the_threshold_only():
    boxes, scores = [LEFT, BOTH, RIGHT, LEFT], [0.9, 0.8, 0.6, 0.5]
    assert run(NMS(0.5), boxes, scores) == ([0, 1, 2], [0.9, 0.8, 0.6])
    assert run(NMS(0.4), boxes, scores) == ([0, 2], [0.9, 0.6])
    assert run(NMS(0.4), boxes, scores, [0, 0, 0, 1]) == ([0, 2, 3], [0.9, 0.6, 0.5])


def test_bad_settings_are_named():
    boxes = torch.tensor([LEFT])
    with pytest.raises(ValueError, match="'cubic'"):
        soft_nms(boxes, torch.ones(1), torch.zeros(1), method="cubic")
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        soft_nms(boxes, torch.ones(1), torch.zeros(1), method="gaussian", sigma=0)


def one_by_one(boxes, scores, classes, *, method, iou_threshold, sigma, min_score):
    """The procedure as the paper has it: take the best, lower the others, and again."""
    left = {i: score for i, score in enumerate(scores.tolist())}
    boxes, classes = boxes.tolist(), classes.tolist()
    taken = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        taken.append((best, left.pop(best)))
        for i in list(left):
            a, b = boxes[best], boxes[i]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            both = max(0.0, width) * max(0.0, height)
            areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
            iou = both / (sum(areas) - both) if classes[best] == classes[i] else 0.0
            if method == "gaussian":
                left[i] *= math.exp(-iou * iou / sigma)
            elif iou >= iou_threshold:
                left[i] *= 1 - iou
            if left[i] < min_score:
                del left[i]
    return taken


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "options",
    [
        dict(method="linear", iou_threshold=0.3, sigma=0.5, min_score=1e-3),
        dict(method="linear", iou_threshold=0.05, sigma=0.5, min_score=0.1),
        dict(method="linear", iou_threshold=0.8, sigma=0.5, min_score=0.0),
        dict(method="gaussian", iou_threshold=0.3, sigma=0.5, min_score=0.05),
        dict(method="gaussian", iou_threshold=0.3, sigma=0.1, min_score=0.0),
    ],
)
def test_equals_taking_boxes_one_by_one(seed, options):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(120, 2, generator=generator, dtype=torch.float64) * 60
    sides = torch.rand(120, 2, generator=generator, dtype=torch.float64) * 40 + 1
    boxes = torch.cat([corners, corners + sides], dim=1)
    scores = torch.rand(120, generator=generator, dtype=torch.float64)
    classes = torch.randint(3, (120,), generator=generator)
    kept, lowered = soft_nms(boxes, scores, classes, **options)
    expected = one_by_one(boxes, scores, classes, **options)
    assert kept.tolist() == [index for index, _ in expected]
    assert lowered.tolist() == pytest.approx([score for _, score in expected], abs=1e-9)
