"""The decoder's losses by hand."""

import math

import pytest
import torch

from co_detr.modeling import criterion as module
from co_detr.modeling.assignment import GroundTruth, HungarianMatcher
from co_detr.modeling.criterion import SetCriterion, elementwise_iou
from co_detr.modeling.losses import FocalLoss, QualityFocalLoss, normalize
from co_detr.modeling.queries.group import FixedTargets, HungarianTargets, QueryGroup
from co_detr.modeling.transformer.decoder import Predictions
from co_detr.modeling.transformer.proposals import Proposals

NUM_CLASSES = 2
# object of class 1, and a prediction half as high: L1 is 0.2, IoU and GIoU are 0.5
OBJECT, HALF = [0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.2]
# beside the object by twice its width: a third of the hull is empty
BESIDE = [0.9, 0.5, 0.2, 0.4]
NOTHING = [0.0] * 4


def positive(p):
    """Focal loss of the right class."""
    return 0.25 * (1 - p) ** 2 * -math.log(p)


def negative(p):
    return 0.75 * p**2 * -math.log(1 - p)


def criterion(class_loss=None, **weights):
    weights = dict(class_weight=1.0, l1_weight=1.0, giou_weight=1.0) | weights
    return SetCriterion(
        num_classes=NUM_CLASSES,
        matcher=HungarianMatcher(),
        class_loss=class_loss or FocalLoss(),
        **weights,
    )


def predictions(probabilities, boxes):
    """From nested lists (L, N, Q, classes) and (L, N, Q, 4)."""
    return Predictions(
        torch.tensor(probabilities).logit().requires_grad_(),
        torch.tensor(boxes).requires_grad_(),
    )


def make_group(predicted, targets=None, name="matching", **kwargs):
    N, Q = predicted.boxes.shape[1:3]
    return QueryGroup(
        name=name,
        content=torch.zeros(N, Q, 4),
        reference=torch.zeros(N, Q, 4),
        targets=targets or HungarianTargets(),
        **kwargs,
    )


def fixed(classes, boxes):
    return FixedTargets(torch.tensor(classes), torch.tensor(boxes))


def truth(*images):
    """From a list of (class, box) per image; images are 200 pixels wide and 100 high."""
    return GroundTruth(
        [torch.tensor([c for c, _ in image], dtype=torch.long) for image in images],
        [torch.tensor([b for _, b in image]).reshape(-1, 4) for image in images],
        torch.tensor([200.0, 100, 200, 100]).expand(len(images), 4),
    )


def losses_of(predicted, ground_truth, targets=None, proposals=None, score=None, **kwargs):
    group = make_group(predicted, targets, **kwargs)
    terms = (score or criterion())({group.name: predicted}, [group], proposals, ground_truth)
    return {name: loss.item() for name, loss in normalize(terms).items()}


def test_hungarian_group_by_hand():
    """Two layers which match different queries."""
    predicted = predictions(
        [[[[0.1, 0.6], [0.2, 0.3]]], [[[0.4, 0.5], [0.1, 0.7]]]],
        [[[HALF, BESIDE]], [[BESIDE, HALF]]],
    )
    losses = losses_of(predicted, truth([(1, OBJECT)]))
    assert losses == pytest.approx(
        {
            "matching/loss_class_0": negative(0.1) + positive(0.6) + negative(0.2) + negative(0.3),
            "matching/loss_class_1": negative(0.4) + negative(0.5) + negative(0.1) + positive(0.7),
            "matching/loss_box_0": 0.2,
            "matching/loss_box_1": 0.2,
            "matching/loss_giou_0": 0.5,
            "matching/loss_giou_1": 0.5,
        },
        abs=1e-5,
    )


def test_fixed_targets_hold_for_all_layers():
    predicted = predictions(
        [[[[0.1, 0.6], [0.2, 0.3]]], [[[0.4, 0.5], [0.1, 0.7]]]],
        [[[HALF, BESIDE]], [[BESIDE, HALF]]],
    )
    targets = fixed([[1, NUM_CLASSES]], [[OBJECT, NOTHING]])
    losses = losses_of(predicted, truth([(0, HALF)]), targets)  # the ground truth does not matter
    assert losses == pytest.approx(
        {
            "matching/loss_class_0": negative(0.1) + positive(0.6) + negative(0.2) + negative(0.3),
            "matching/loss_class_1": negative(0.4) + positive(0.5) + negative(0.1) + negative(0.7),
            "matching/loss_box_0": 0.2,
            "matching/loss_box_1": 0.4,
            "matching/loss_giou_0": 0.5,
            "matching/loss_giou_1": 1 + 1 / 3,
        },
        abs=1e-5,
    )


def test_quality_focal_loss_reads_the_iou_of_the_box():
    predicted = predictions([[[[0.1, 0.6]]]], [[[HALF]]])
    losses = losses_of(predicted, truth([(1, OBJECT)]), score=criterion(QualityFocalLoss()))
    cross_entropy = -(0.5 * math.log(0.6) + 0.5 * math.log(0.4))
    expected = 0.1**2 * -math.log(0.9) + (0.6 - 0.5) ** 2 * cross_entropy
    assert losses["matching/loss_class_0"] == pytest.approx(expected, abs=1e-6)


def test_quality_carries_no_gradient():
    predicted = predictions([[[[0.1, 0.6]]]], [[[HALF]]])
    group = make_group(predicted)
    terms = criterion(QualityFocalLoss())(
        {"matching": predicted}, [group], None, truth([(1, OBJECT)])
    )
    total = terms["matching/loss_class_0"].total
    (gradient,) = torch.autograd.grad(total, predicted.boxes)
    assert not gradient.any()


def test_groups_are_scored_the_same_side_by_side_and_one_by_one(monkeypatch):
    """Of different sizes, kinds of targets, weights and padding."""
    torch.manual_seed(0)
    predicted, groups = {}, []
    for name, size, options in [
        ("matching", 3, {}),
        ("a", 2, dict(weight=2.0, valid=torch.tensor([[True, False], [True, True]]))),
        ("b", 4, dict(weight=0.5)),
    ]:
        logits, boxes = torch.randn(2, 2, size, NUM_CLASSES), torch.rand(2, 2, size, 4)
        predicted[name] = Predictions(logits.requires_grad_(), boxes.requires_grad_())
        targets = FixedTargets(torch.randint(NUM_CLASSES + 1, (2, size)), torch.rand(2, size, 4))
        targets = None if name == "matching" else targets
        groups.append(make_group(predicted[name], targets, name=name, **options))
    scene = predicted, groups, None, truth([(1, OBJECT)], [(0, HALF), (1, BESIDE)])

    results = []
    for limit in (module.PAIRS_AT_ONCE, 1):
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", limit)
        losses = normalize(criterion()(*scene))
        leaves = [leaf for p in predicted.values() for leaf in (p.logits, p.boxes)]
        results.append((losses, torch.autograd.grad(sum(losses.values()), leaves)))
    (together, gradients), (alone, their_gradients) = results
    assert list(together) == list(alone) and len(together) == 3 * 3 * 2
    for name, loss in together.items():
        torch.testing.assert_close(loss, alone[name], msg=name)
    for ours, theirs in zip(gradients, their_gradients):
        torch.testing.assert_close(ours, theirs)


def test_weights_multiply():
    predicted = predictions([[[[0.1, 0.6]]]], [[[HALF]]])
    score = criterion(class_weight=2.0, l1_weight=5.0, giou_weight=3.0)
    losses = losses_of(predicted, truth([(1, OBJECT)]), score=score, weight=0.5)
    assert losses == pytest.approx(
        {
            "matching/loss_class_0": 1.0 * (negative(0.1) + positive(0.6)),
            "matching/loss_box_0": 2.5 * 0.2,
            "matching/loss_giou_0": 1.5 * 0.5,
        },
        abs=1e-5,
    )


def test_losses_are_divided_by_the_objects_of_the_batch():
    """Three objects in two images, one of them empty."""
    predicted = predictions([[[[0.1, 0.6]] * 4] * 3], [[[HALF] * 4] * 3])
    ground_truth = truth([(1, OBJECT)] * 2, [], [(1, OBJECT)])
    losses = losses_of(predicted, ground_truth)
    queries = 3 * (negative(0.1) + positive(0.6)) + 9 * (negative(0.1) + negative(0.6))
    assert losses["matching/loss_class_0"] == pytest.approx(queries / 3, abs=1e-5)
    assert losses["matching/loss_box_0"] == pytest.approx(0.2, abs=1e-5)
    assert losses["matching/loss_giou_0"] == pytest.approx(0.5, abs=1e-5)


def test_repeats_count_in_the_normalizer():
    predicted = predictions([[[[0.1, 0.6]] * 3]], [[[HALF] * 3]])
    losses = losses_of(predicted, truth([(1, OBJECT)]), HungarianTargets(repeats=2))
    expected = 2 * (negative(0.1) + positive(0.6)) + negative(0.1) + negative(0.6)
    assert losses["matching/loss_class_0"] == pytest.approx(expected / 2, abs=1e-5)


def test_without_objects_all_is_background_and_counts_as_one():
    predicted = predictions([[[[0.1, 0.6]] * 2] * 2], [[[HALF] * 2] * 2])
    losses = losses_of(predicted, truth([], []))
    assert losses == pytest.approx(
        {
            "matching/loss_class_0": 4 * (negative(0.1) + negative(0.6)),
            "matching/loss_box_0": 0.0,
            "matching/loss_giou_0": 0.0,
        },
        abs=1e-5,
    )


def test_padding_queries_count_nowhere():
    predicted = predictions([[[[0.1, 0.6], [0.9, 0.9]]]], [[[HALF, [0.1, 0.1, 0.1, 0.1]]]])
    targets = fixed([[1, NUM_CLASSES]], [[OBJECT, NOTHING]])
    valid = torch.tensor([[True, False]])
    losses = losses_of(predicted, truth([(1, OBJECT)]), targets, valid=valid)
    assert losses == pytest.approx(
        {
            "matching/loss_class_0": negative(0.1) + positive(0.6),
            "matching/loss_box_0": 0.2,
            "matching/loss_giou_0": 0.5,
        },
        abs=1e-5,
    )


def test_background_boxes_get_no_gradient():
    predicted = predictions([[[[0.1, 0.6], [0.2, 0.3]]]], [[[HALF, BESIDE]]])
    group = make_group(predicted)
    terms = criterion()({"matching": predicted}, [group], None, truth([(1, OBJECT)]))
    total = sum(term.total for term in terms.values())
    (gradient,) = torch.autograd.grad(total, predicted.boxes)
    assert gradient[0, 0, 0].abs().sum() > 0 and gradient[0, 0, 1].abs().sum() == 0


def test_groups_have_their_own_names_and_normalizers():
    one = predictions([[[[0.1, 0.6]]]], [[[HALF]]])
    targets = fixed([[1] * 2], [[OBJECT] * 2])
    two = predictions([[[[0.1, 0.6]] * 2]], [[[HALF, OBJECT]]])
    groups = [make_group(one), make_group(two, targets, "customized/atss", weight=3.0)]
    terms = criterion()(
        {"matching": one, "customized/atss": two}, groups, None, truth([(1, OBJECT)])
    )
    assert list(terms) == [
        f"{group}/loss_{kind}_0"
        for group in ("matching", "customized/atss")
        for kind in ("class", "box", "giou")
    ]
    losses = normalize(terms)
    assert losses["matching/loss_box_0"].item() == pytest.approx(0.2, abs=1e-5)
    assert losses["customized/atss/loss_box_0"].item() == pytest.approx(3 * 0.2 / 2, abs=1e-5)


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_proposals_by_hand(class_agnostic):
    """ "object or not" is asked of the first class; the others are trained to be quiet."""
    boxes = torch.tensor([[HALF, BESIDE]])
    proposals = Proposals(
        index=torch.tensor([[0, 1]]),
        reference=boxes,
        logits=torch.tensor([[[0.3, 0.6], [0.2, 0.1]]]).logit(),
        boxes=boxes,
        class_agnostic=class_agnostic,
    )
    predicted = predictions([[[[0.1, 0.6]]]], [[[HALF]]])
    losses = losses_of(predicted, truth([(1, OBJECT)]), proposals=proposals)
    first = positive(0.3) + negative(0.6) if class_agnostic else negative(0.3) + positive(0.6)
    assert losses["encoder/loss_class"] == pytest.approx(
        first + negative(0.2) + negative(0.1), abs=1e-5
    )
    assert losses["encoder/loss_box"] == pytest.approx(0.2, abs=1e-5)
    assert losses["encoder/loss_giou"] == pytest.approx(0.5, abs=1e-5)
    assert losses["matching/loss_class_0"] == pytest.approx(negative(0.1) + positive(0.6), abs=1e-5)


def test_images_of_a_batch_keep_their_objects_apart():
    """The same prediction is right in one image and wrong in the other."""
    predicted = predictions([[[[0.1, 0.6]], [[0.1, 0.6]]]], [[[OBJECT], [OBJECT]]])
    losses = losses_of(predicted, truth([(0, BESIDE)], [(1, OBJECT)]))
    expected = positive(0.1) + negative(0.6) + negative(0.1) + positive(0.6)
    assert losses["matching/loss_class_0"] == pytest.approx(expected / 2, abs=1e-5)
    assert losses["matching/loss_box_0"] == pytest.approx((0.4 + 0.0) / 2, abs=1e-5)
    assert losses["matching/loss_giou_0"] == pytest.approx((4 / 3 + 0.0) / 2, abs=1e-5)


def test_elementwise_iou_by_hand():
    boxes = torch.tensor([HALF, BESIDE, OBJECT, [0.5, 0.5, 0.0, 0.0]])
    target = torch.tensor([OBJECT, OBJECT, [0.6, 0.5, 0.2, 0.4], [0.5, 0.5, 0.0, 0.0]])
    expected = torch.tensor([0.5, 0.0, 1 / 3, 0.0])  # two empty boxes have no union
    torch.testing.assert_close(elementwise_iou(boxes, target), expected)
