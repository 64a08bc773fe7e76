"""Grad-CAM maps of heads, and the distances between them."""

from math import log

import pytest
import torch

from co_detr.analysis.grad_cam import (
    combine_levels,
    evidence,
    grad_cam,
    image_map,
    to_distribution,
)
from co_detr.analysis.head_distances import average_distances, model_distances, pairwise_kl


def test_a_detection_counts_as_much_as_the_head_is_sure_of_it():
    logits = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    evidence(logits.sigmoid()).backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid())


def test_evidence_of_two_detections():
    # The probability that both are wrong is 3/4 * 1/2.
    assert evidence(torch.tensor([0.25, 0.5])) == pytest.approx(-log(3 / 8))
    assert evidence(torch.empty(0)) == 0


def test_a_score_of_one_has_finite_evidence():
    scores = torch.tensor([1.0, 0.5], requires_grad=True)
    evidence(scores).backward()
    assert scores.grad.tolist() == [0.0, 2.0]


def test_map_of_a_linear_head():
    # y = sum over cells of 2 a - b: the gradient is 2 and -1 everywhere.
    features = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[1.0, 0.0], [3.0, 2.0]]])
    features.requires_grad_()
    (features * torch.tensor([2.0, -1.0])[:, None, None]).sum().backward()
    heat = grad_cam(features, features.grad)
    assert heat.tolist() == [[1.0, 4.0], [0.0, 0.0]]


def test_map_of_a_head_that_reads_one_cell():
    # y = 4 a at one cell of four: the mean gradient is 1, so that the map is a where positive.
    features = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]], requires_grad=True)
    (4 * features[0, 1, 1]).backward()
    assert grad_cam(features, features.grad).tolist() == [[1.0, 0.0], [0.5, 3.0]]


def test_levels_count_alike_and_are_resized_to_the_finest():
    fine = torch.tensor([[0.0, 5.0], [10.0, 0.0]])
    coarse = torch.tensor([[0.1]])
    assert combine_levels([fine, coarse]).tolist() == [[0.5, 0.75], [1.0, 0.5]]
    assert combine_levels([fine, torch.zeros(1, 1)]).tolist() == [[0.0, 0.25], [0.5, 0.0]]


def test_padding_is_no_part_of_the_map():
    torch.manual_seed(0)
    features = [torch.randn(3, 4, 6), torch.randn(3, 2, 3)]
    gradients = [torch.randn(3, 4, 6), torch.randn(3, 2, 3)]
    valid = torch.tensor([[5.0, 2.0], [3.0, 1.0]])  # columns, rows
    heat = image_map(features, gradients, valid)
    assert heat.shape == (2, 5)
    assert heat.max() > 0
    for padded in (*features, *gradients):
        padded[:, padded.shape[1] // 2 :] = 1e6
    for padded in (features[0], gradients[0]):
        padded[:, :, 5:] = -1e6
    assert image_map(features, gradients, valid).equal(heat)


def test_distribution_with_a_share_for_every_cell():
    heat = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    found = to_distribution(torch.stack([heat, 100 * heat, 0 * heat]), 0.2)
    expected = [[0.65, 0.25, 0.05, 0.05]] * 2 + [[0.25] * 4]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("epsilon", [0, 1, -0.1])
def test_distribution_needs_a_share_for_every_cell(epsilon):
    with pytest.raises(ValueError, match=f"epsilon.*{epsilon}"):
        to_distribution(torch.ones(1, 1), epsilon)


def test_kl_of_distributions_over_two_cells():
    matrix = pairwise_kl(torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64))
    forth = 0.5 * log(2) + 0.5 * log(2 / 3)
    back = 0.25 * log(1 / 2) + 0.75 * log(3 / 2)
    expected = torch.tensor([[0, forth], [back, 0]], dtype=torch.float64)
    torch.testing.assert_close(matrix, expected)


MATRIX = torch.tensor([[9.0, 1, 2], [3, 9, 4], [5, 6, 9]])


def test_average_distances_leave_the_diagonal_out():
    assert average_distances(MATRIX).tolist() == [11 / 4, 14 / 4, 17 / 4]


def test_distances_of_a_model_are_among_its_auxiliary_heads():
    assert model_distances(MATRIX).tolist() == [5.0, 5.0]  # 4 and 6


def test_a_single_auxiliary_head_is_compared_with_the_detr_head():
    assert model_distances(MATRIX[:2, :2]).tolist() == [2.0]  # 1 and 3


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_a_single_head_has_no_distance(shape):
    with pytest.raises(ValueError, match="at least 2 heads"):
        average_distances(torch.zeros(shape))
