"""Hungarian matching by hand."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.modeling import assignment
from co_detr.modeling.assignment import GroundTruth, HungarianMatcher, MatchingProblem

SIZE = (100, 200)  # height, width
SCALE = torch.tensor([200.0, 100, 200, 100])


def truth(*images):
    """Ground truth from a list of (class, normalized cxcywh box) per image."""
    classes, boxes = [], []
    for image in images:
        classes.append(torch.tensor([c for c, _ in image], dtype=torch.long))
        boxes.append(torch.tensor([b for _, b in image]).reshape(-1, 4))
    return GroundTruth(classes, boxes, SCALE.expand(len(images), 4))


def problem(boxes, probabilities=None, num_classes=2, **kwargs):
    """Predictions (L, N, Q) from nested lists of cxcywh boxes and of class probabilities."""
    boxes = torch.tensor(boxes)
    if probabilities is None:
        logits = torch.zeros(*boxes.shape[:3], num_classes)
    else:
        logits = torch.tensor(probabilities).logit()
    return MatchingProblem(logits, boxes, **kwargs)


def match(prediction, ground_truth, **costs):
    return HungarianMatcher(**costs)({"matching": prediction}, ground_truth)["matching"].tolist()


LEFT, MIDDLE, RIGHT = [0.2, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.8, 0.5, 0.2, 0.2]


def test_ground_truth_of_instances():
    instances = Instances(SIZE, gt_boxes=Boxes([[20.0, 10, 60, 30]]), gt_classes=torch.tensor([3]))
    empty = Instances((50, 50), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    found = GroundTruth.from_instances([instances, empty], [SIZE, (50, 50)])
    torch.testing.assert_close(found.boxes[0], torch.tensor([[0.2, 0.2, 0.2, 0.2]]))
    assert found.boxes[1].shape == (0, 4)
    assert [c.tolist() for c in found.classes] == [[3], []]
    assert found.scale.tolist() == [[200, 100, 200, 100], [50, 50, 50, 50]]


def test_cost_by_hand():
    ground_truth = truth([(1, [0.5, 0.5, 0.2, 0.4])])
    predicted = problem([[[[0.5, 0.5, 0.2, 0.2]]]], [[[[0.3, 0.9]]]])
    matcher = HungarianMatcher(class_cost=2.0, l1_cost=5.0, giou_cost=3.0)
    cost = matcher.cost(predicted, ground_truth)
    focal = 0.25 * 0.1**2 * -math.log(0.9) - 0.75 * 0.9**2 * -math.log(0.1)
    iou = 0.5  # half as high, inside: GIoU is IoU
    assert cost.item() == pytest.approx(2 * focal + 5 * 0.2 - 3 * iou, abs=1e-5)


def test_giou_cost_of_boxes_apart():
    ground_truth = truth([(0, [0.2, 0.2, 0.2, 0.2])])
    predicted = problem([[[[0.6, 0.2, 0.2, 0.2]]]])
    matcher = HungarianMatcher(class_cost=0.0, l1_cost=0.0, giou_cost=1.0)
    cost = matcher.cost(predicted, ground_truth)
    assert cost.item() == pytest.approx(1 / 3, abs=1e-5)  # a third of the hull is empty


def test_costs_in_small_portions_are_the_same(monkeypatch):
    torch.manual_seed(0)
    ground_truth = truth([(0, LEFT), (1, MIDDLE), (1, RIGHT)], [(0, LEFT)])
    predicted = MatchingProblem(torch.randn(3, 2, 7, 2), torch.rand(3, 2, 7, 4))
    costs = {}
    for limit in (assignment.PAIRS_AT_ONCE, 1, 42):  # all objects, one, or two
        monkeypatch.setattr(assignment, "PAIRS_AT_ONCE", limit)
        costs[limit] = HungarianMatcher().cost(predicted, ground_truth)
    first, *others = costs.values()
    assert first.shape == (4, 3, 7)
    for other in others:
        assert torch.equal(other, first)


def test_an_object_is_compared_with_the_predictions_for_its_own_image():
    """In layers, images and classes that are all different."""
    torch.manual_seed(0)
    ground_truth = truth([(1, LEFT)], [(0, MIDDLE), (1, RIGHT)])
    predicted = MatchingProblem(torch.randn(3, 2, 7, 2), torch.rand(3, 2, 7, 4))
    costs = HungarianMatcher().cost(predicted, ground_truth)
    for number, (image, label, box) in enumerate([(0, 1, LEFT), (1, 0, MIDDLE), (1, 1, RIGHT)]):
        for layer in range(3):
            alone = MatchingProblem(
                predicted.logits[None, layer, image, None],
                predicted.boxes[None, layer, image, None],
            )
            cost = HungarianMatcher().cost(alone, truth([(label, box)]))
            torch.testing.assert_close(costs[number, layer], cost[0, 0])


def test_the_cheapest_assignment_is_found():
    """Greedily, query 0 would take the object in the middle and leave the left one to query 1."""
    ground_truth = truth([(0, MIDDLE), (0, LEFT)])
    predicted = problem([[[[0.40, 0.5, 0.2, 0.2], [0.62, 0.5, 0.2, 0.2], RIGHT]]])
    assert match(predicted, ground_truth) == [[[1, 0, -1]]]


def test_indices_count_through_the_batch_and_layers_are_independent():
    ground_truth = truth([(0, LEFT), (0, RIGHT)], [], [(0, MIDDLE)])
    first, second = [LEFT, MIDDLE, RIGHT], [RIGHT, LEFT, MIDDLE]
    predicted = problem([[first] * 3, [second] * 3])
    assert match(predicted, ground_truth) == [
        [[0, -1, 1], [-1, -1, -1], [-1, 2, -1]],
        [[1, 0, -1], [-1, -1, -1], [-1, -1, 2]],
    ]


def test_more_objects_than_queries():
    ground_truth = truth([(0, LEFT), (0, MIDDLE), (0, RIGHT)])
    assert match(problem([[[RIGHT, [0.25, 0.5, 0.2, 0.2]]]]), ground_truth) == [[[2, 0]]]


def test_a_batch_without_objects():
    assert match(problem([[[LEFT, RIGHT]] * 2]), truth([], [])) == [[[-1, -1], [-1, -1]]]


def test_no_problems():
    assert HungarianMatcher()({}, truth([(0, LEFT)])) == {}


def test_repeats_match_every_object_so_often():
    ground_truth = truth([], [(0, LEFT), (0, RIGHT)])
    queries = [LEFT, RIGHT, MIDDLE, [0.25, 0.5, 0.2, 0.2], [0.75, 0.5, 0.2, 0.2]]
    predicted = problem([[queries] * 2], repeats=2)
    assert match(predicted, ground_truth) == [[[-1] * 5, [0, 1, -1, 0, 1]]]
    # with more repeats than queries everyone gets an object
    predicted = problem([[queries] * 2], repeats=4)
    assert -1 not in match(predicted, ground_truth)[0][1]


def test_classes_decide_where_boxes_do_not():
    ground_truth = truth([(0, LEFT), (1, LEFT)])
    predicted = problem([[[LEFT, LEFT]]], [[[[0.1, 0.6], [0.7, 0.2]]]])
    assert match(predicted, ground_truth) == [[[1, 0]]]


def test_class_agnostic_problems_look_at_the_first_class_only():
    # query 1 says class 1, which is the object's; query 0 says "object"
    ground_truth = truth([(1, LEFT)])
    boxes, probabilities = [[[LEFT, LEFT]]], [[[[0.8, 0.1], [0.2, 0.9]]]]
    assert match(problem(boxes, probabilities), ground_truth) == [[[-1, 0]]]
    agnostic = problem(boxes, probabilities, class_agnostic=True)
    assert match(agnostic, ground_truth) == [[[0, -1]]]
    assert ground_truth.classes[0].tolist() == [1]  # untouched


@pytest.mark.parametrize(
    "where, value", [("logits", math.nan), ("boxes", math.nan), ("boxes", math.inf)]
)
def test_costs_that_are_not_finite_are_reported(where, value):
    good, bad = problem([[[LEFT]] * 2] * 3), problem([[[LEFT]] * 2] * 3)
    getattr(bad, where)[2, 1, 0, 0] = value
    ground_truth = truth([(0, LEFT)], [(0, LEFT)])
    message = "'denoising' is not finite in layer 2, image 1 .* have diverged"
    with pytest.raises(FloatingPointError, match=message):
        HungarianMatcher()({"matching": good, "denoising": bad}, ground_truth)


def test_one_copy_to_the_host_whatever_there_is_to_match(monkeypatch):
    copies = []
    for name in ("cpu", "tolist", "item", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):
            copies.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    problems = {"matching": problem([[[LEFT]] * 2] * 3), "encoder": problem([[[RIGHT]] * 2])}
    HungarianMatcher()(problems, truth([(0, LEFT)], [(1, RIGHT), (0, MIDDLE)]))
    assert copies == ["cpu", "numpy"]  # the second one is free


def test_problems_are_solved_side_by_side_and_without_gradient():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    boxes = torch.tensor([[[LEFT, RIGHT]]], requires_grad=True)
    found = HungarianMatcher()(
        {
            "a": MatchingProblem(logits, boxes),
            "b": MatchingProblem(logits.flip(2), boxes.flip(2)),
        },
        truth([(0, RIGHT)]),
    )
    assert {name: x.tolist() for name, x in found.items()} == {"a": [[[-1, 0]]], "b": [[[0, -1]]]}
    assert not any(x.requires_grad for x in found.values())
