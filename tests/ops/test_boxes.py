import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import generalized_box_iou_loss

from co_detr.ops.boxes import (
    apply_deltas,
    box_deltas,
    giou_loss,
    has_area,
    inverse_sigmoid,
    to_absolute_xyxy,
    to_normalized_cxcywh,
)


def test_inverse_sigmoid_inverts_the_sigmoid():
    logits = torch.tensor([-6.0, -1.0, 0.0, 0.5, 6.0], dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid(), eps=1e-5), logits)


def test_inverse_sigmoid_clamps_numerator_and_denominator_separately():
    # With eps = 0.1, x = 0.05 gives log(0.1 / 0.95); clamping x itself would give log(0.1 / 0.9).
    x = torch.tensor([-3.0, 0.0, 0.05, 0.95, 1.0, 7.0])
    low = math.log(0.1)
    inner = math.log(0.1 / 0.95)
    expected = torch.tensor([low, low, inner, -inner, -low, -low])
    torch.testing.assert_close(inverse_sigmoid(x, eps=0.1), expected)


def test_inverse_sigmoid_gradient():
    # d/dx log(x / (1 - x)) = 1 / (x (1 - x)); below eps only the denominator moves: 1 / (1 - x).
    x = torch.tensor([0.25, 0.05, -1.0, 2.0], requires_grad=True)
    inverse_sigmoid(x, eps=0.1).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([16 / 3, 1 / 0.95, 0.0, 0.0]))


def test_boxes_change_frame_with_each_image_s_own_size():
    # Image 0 is 200 wide and 100 high, image 1 is 40 wide and 80 high.
    scale = torch.tensor([[200.0, 100, 200, 100], [40, 80, 40, 80]])[:, None]
    normalized = torch.tensor([[[0.5, 0.5, 0.2, 0.4]], [[0.25, 0.75, 0.5, 0.5]]])
    absolute = torch.tensor([[[80.0, 30, 120, 70]], [[0, 40, 20, 80]]])
    torch.testing.assert_close(to_absolute_xyxy(normalized, scale), absolute)
    torch.testing.assert_close(to_normalized_cxcywh(absolute, scale), normalized)


def test_boxes_beyond_the_image_are_not_clipped():
    scale = torch.tensor([10.0, 20, 10, 20])
    box = torch.tensor([[0.0, 1.0, 1.0, 0.5]])
    torch.testing.assert_close(
        to_absolute_xyxy(box, scale), torch.tensor([[-5.0, 15.0, 5.0, 25.0]])
    )


def test_no_boxes():
    scale = torch.ones(3, 1, 4)
    assert to_absolute_xyxy(torch.zeros(3, 0, 4), scale).shape == (3, 0, 4)
    assert to_normalized_cxcywh(torch.zeros(3, 0, 4), scale).shape == (3, 0, 4)


def test_giou_loss_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]])
    target = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [3, 0, 4, 1], [3, 3, 3, 3]])
    # the same; 1 of 7, hull 9; apart, 2 of a hull of 4; two points
    expected = torch.tensor([0, 1 - 1 / 7 + 2 / 9, 1 + 2 / 4, 1])
    torch.testing.assert_close(giou_loss(boxes, target), expected)


def test_giou_loss_is_torchvision_s_and_so_is_its_gradient():
    torch.manual_seed(0)
    corner, size = torch.rand(2, 50, 2) * 100, torch.rand(2, 50, 2) * 50 + 1
    boxes, target = torch.cat([corner, corner + size], dim=-1)
    ours, theirs = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    loss, expected = giou_loss(ours, target), generalized_box_iou_loss(theirs, target)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


def test_giou_loss_does_not_wait_for_the_device():
    """Boolean indexing would: the number of results has to reach the host."""
    called = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    boxes = torch.rand(5, 4).cumsum(1).requires_grad_()
    with Noted():
        giou_loss(boxes, boxes.detach().flip(0)).sum().backward()
    assert called and not [op for op in called if "index" in op or "nonzero" in op]


def test_deltas_by_hand():
    """Shifted by a quarter of the width and half the height, twice as wide, half as high."""
    source = torch.tensor([10.0, 20.0, 18.0, 28.0])
    target = torch.tensor([8.0, 26.0, 24.0, 30.0])
    expected = torch.tensor([2 * 0.25, 2 * 0.5, 3 * math.log(2), -3 * math.log(2)])
    torch.testing.assert_close(box_deltas(source, target, (2, 2, 3, 3)), expected)


def test_deltas_are_those_of_detectron2():
    torch.manual_seed(0)
    corner = torch.rand(2, 20, 2) * 100
    source, target = torch.cat([corner, corner + 1 + torch.rand(2, 20, 2) * 50], dim=-1)
    weights = (10.0, 10.0, 5.0, 5.0)
    transform = Box2BoxTransform(weights)
    deltas = box_deltas(source, target, weights)
    torch.testing.assert_close(deltas, transform.get_deltas(source, target), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, atol=1e-3, rtol=0)


@pytest.mark.parametrize("weights", [(10.0, 10.0, 5.0, 5.0), (10.0, 8.0, 5.0, 4.0)])
def test_boxes_of_deltas_are_those_of_detectron2_and_so_is_their_gradient(weights):
    """Also where the growth is clamped, and for several deltas of each source."""
    torch.manual_seed(0)
    corner, size = torch.rand(20, 1, 2) * 100, torch.rand(20, 1, 2) * 50 + 1
    source = torch.cat([corner, corner + size], dim=-1)
    transform = Box2BoxTransform(weights, scale_clamp=0.2)
    ours = torch.randn(20, 3, 4).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    boxes = apply_deltas(source, ours, weights, scale_clamp=0.2)
    expected = transform.apply_deltas(theirs.flatten(1), source[:, 0]).view(20, 3, 4)
    torch.testing.assert_close(boxes, expected)
    slope = torch.randn(20, 3, 4)
    boxes.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_both_sides_make_an_area():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0], [2, 0, 2, 5], [3, 0, 2, 5], [0, 0, 0, 0]])
    assert has_area(boxes).tolist() == [True, False, False, False, False]
