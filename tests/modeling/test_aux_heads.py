"""What holds for every auxiliary head, whatever its assignment, on awkward batches above all."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.fcos import FCOSHead
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.paa import PAAHead
from co_detr.modeling.aux_heads.rcnn import BoxHead, FasterRCNNHead
from co_detr.modeling.aux_heads.retinanet import RetinaNetHead
from co_detr.modeling.aux_heads.rpn import RPN
from co_detr.modeling.losses import normalize

STRIDES = (8, 16, 32)
SIZES = [(64, 96), (41, 50)]  # batch 64 x 96
NUM_CLASSES = 5


def maker(head, **options):
    """What makes a dense head."""
    common = dict(in_channels=32, num_classes=NUM_CLASSES, strides=STRIDES)
    return lambda **kwargs: head(**common, **options | kwargs)


def make_rcnn(class_agnostic_boxes=False, **kwargs):
    return FasterRCNNHead(
        rpn=RPN(in_channels=32, strides=STRIDES, anchor_scale=2, post_nms_topk=(50, 50)),
        box_head=BoxHead(
            in_channels=32,
            num_classes=NUM_CLASSES,
            strides=STRIDES[:2],
            finest_scale=28,
            num_convs=1,
            fc_dim=16,
            class_agnostic_boxes=class_agnostic_boxes,
        ),
        samples_per_image=32,
        **kwargs,
    )


PLAIN_FCOS = dict(center_radius=None, box_activation="exp", quality_tower="class", conv_bias=False)
HEADS = {
    "atss": maker(ATSSHead),
    "gfl": maker(GFLHead, max_distance=4),
    "fcos": maker(FCOSHead, max_sizes=(16.0, 32.0)),
    "fcos-plain": maker(FCOSHead, **PLAIN_FCOS),
    "paa": maker(PAAHead, anchor_scale=4.0),
    "retinanet": maker(RetinaNetHead, anchor_scale=2.0),
    "rcnn": make_rcnn,
    "rcnn-class-agnostic": lambda **kwargs: make_rcnn(class_agnostic_boxes=True, **kwargs),
}
BATCHES = {
    "no-boxes": ([], []),
    "one-empty-image": ([[8, 8, 40, 50], [30, 4, 90, 60]], []),
    "one-box": ([[10, 10, 60, 40]], [[3, 3, 30, 40]]),
    "one-pixel": ([[50, 30, 51, 31]], [[0, 0, 1, 1]]),
    "beyond-the-image": ([[-30, -20, 150, 100]], [[-9, 10, 70, 60], [0, 0, 5, 5]]),
    "whole-image": ([[0, 0, 96, 64]], [[0, 0, 50, 41]]),
    "twins": ([[8, 8, 40, 50]] * 2, [[3, 3, 30, 40]] * 3),
    "crowd": ([[2.0 * i, i, 2 * i + 30, i + 30] for i in range(30)], [[5, 5, 20, 20]]),
}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=HEADS)
def make(request):
    return HEADS[request.param]


@pytest.fixture(params=BATCHES)
def truth(request):
    return ground_truth(BATCHES[request.param])


def ground_truth(batch):
    return [
        Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(len(boxes)) % NUM_CLASSES)
        for size, boxes in zip(SIZES, batch)
    ]


def pyramid():
    return [torch.randn(2, 32, 64 // s, 96 // s, requires_grad=True) for s in STRIDES]


def test_losses_are_finite_and_reach_every_parameter_and_feature(make, truth):
    head, features = make(), pyramid()
    losses = normalize(head(features, SIZES, truth).losses)
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, tensor in [*head.named_parameters(), *enumerate(features)]:
        # A parameter without gradient would leave other ranks waiting in the reduction.
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name


def test_the_names_of_losses_do_not_depend_on_the_batch(make, truth):
    head, features = make(), pyramid()
    names = list(head(features, SIZES, ground_truth(BATCHES["one-box"])).losses)
    assert list(head(features, SIZES, truth).losses) == names


def test_samples_are_labelled_boxes_and_only_features_carry_gradient(make, truth):
    samples = make()(pyramid(), SIZES, truth).samples
    assert [s.image_size for s in samples] == SIZES
    for sample, gt in zip(samples, truth):
        assert not sample.proposal_boxes.tensor.requires_grad
        assert not sample.gt_boxes.tensor.requires_grad
        assert sample.features.requires_grad and sample.features.shape == (len(sample), 32)
        background = sample.gt_classes == NUM_CLASSES
        assert not sample.gt_boxes.tensor[background].any()
        # Every positive carries a box of its own image, with the class of that box.
        pairs = {(*b, c) for b, c in zip(gt.gt_boxes.tensor.tolist(), gt.gt_classes.tolist())}
        assert not sample.gt_boxes.tensor[sample.gt_classes == -1].any()
        positive = sample[~background & (sample.gt_classes >= 0)]
        got = zip(positive.gt_boxes.tensor.tolist(), positive.gt_classes.tolist())
        assert {(*b, c) for b, c in got} <= pairs


def test_every_box_of_some_size_has_a_positive_sample(make):
    truth = ground_truth(([[8, 8, 40, 50], [30, 4, 90, 60]], [[3, 3, 30, 40]]))
    for sample, gt in zip(make()(pyramid(), SIZES, truth).samples, truth):
        positive = sample.gt_boxes.tensor[sample.gt_classes < NUM_CLASSES].tolist()
        assert all(box in positive for box in gt.gt_boxes.tensor.tolist())


def test_features_can_be_left_out_of_the_samples(make):
    head = make(sample_features=False)
    output = head(pyramid(), SIZES, ground_truth(BATCHES["one-box"]))
    assert not any(sample.has("features") for sample in output.samples)


def test_the_loss_weight_scales_every_loss(make):
    head, scaled, features = make(loss_weight=1.0), make(loss_weight=3.0), pyramid()
    scaled.load_state_dict(head.state_dict())
    if isinstance(head, PAAHead):
        scaled.assign = head.assign  # the weights move it
    truth = ground_truth(BATCHES["one-box"])
    results = []
    for h in (head, scaled):
        torch.manual_seed(1)
        results.append(h(features, SIZES, truth).losses)
    for name, term in results[0].items():
        assert results[1][name].total.item() == pytest.approx(3 * term.total.item(), rel=1e-5)
        assert float(results[1][name].count) == float(term.count)


def test_an_image_is_treated_the_same_in_any_batch(make):
    """Assignments and detections of an image do not depend on its neighbours."""
    head, features = make(), [f.detach() for f in pyramid()]
    truth = ground_truth(BATCHES["one-empty-image"])
    alone = [f[:1] for f in features]
    for name in ("forward", "inference"):
        torch.manual_seed(1)
        if name == "forward":
            both = head(features, SIZES, truth).samples[0]
            torch.manual_seed(1)
            one = head(alone, SIZES[:1], truth[:1]).samples[0]
            a, b = both.gt_boxes.tensor.sort(dim=0).values, one.gt_boxes.tensor.sort(dim=0).values
        else:
            a = head.inference(features, SIZES)[0].scores
            b = head.inference(alone, SIZES[:1])[0].scores
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
def test_detections_lie_in_the_image_by_falling_score(make):
    for got, size in zip(make(detections_per_image=7).inference(pyramid(), SIZES), SIZES):
        assert got.image_size == size and len(got) == 7
        assert (got.scores.diff() <= 0).all() and (got.scores > 0).all()
        assert got.pred_boxes.inside_box((size[0] + 1, size[1] + 1)).all()
        assert ((got.pred_classes >= 0) & (got.pred_classes < NUM_CLASSES)).all()


@torch.no_grad()
def test_a_score_threshold_above_all_scores_leaves_no_detections(make):
    for got in make(score_threshold=1.0).inference(pyramid(), SIZES):
        assert len(got) == 0 and got.pred_boxes.tensor.shape == (0, 4)


def test_a_pyramid_of_another_depth_is_refused_with_both_numbers(make):
    with pytest.raises(ValueError, match=r"2 feature maps for strides \(8, 16, 32\)"):
        make()(pyramid()[:2], SIZES, ground_truth(BATCHES["no-boxes"]))


def test_losses_are_computed_in_float32_under_autocast(make):
    head, features = make(), [f.detach() for f in pyramid()]
    truth, losses = ground_truth(BATCHES["one-empty-image"]), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(normalize(head(features, SIZES, truth).losses))
    for name, loss in losses[1].items():
        assert loss.dtype == torch.float32
        # The predictions have three digits, and proposals move a little.
        assert loss.item() == pytest.approx(losses[0][name].item(), rel=0.1), name
