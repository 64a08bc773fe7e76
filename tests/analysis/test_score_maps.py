"""Discriminability scores by hand, their maps as drawn, and a batch of two sizes."""

import numpy as np
import pytest
import torch

from co_detr.analysis.plots.score_maps import ScoredPicture, draw_score_maps
from co_detr.analysis.score_maps import (
    attention_scores,
    feature_scores,
    resize_to_image,
    valid_cells,
)


def features(*norms):
    """A map of one row, (2, 1, W), whose cells have these l2 norms."""
    return torch.tensor([[norms], [norms]]) * torch.tensor([0.6, 0.8]).view(2, 1, 1)


def test_norms_over_their_largest_averaged_over_levels():
    fine, coarse = features(5.0, 10.0), features(3.0)
    scores = feature_scores([fine, coarse], (1, 2), (1, 2))
    torch.testing.assert_close(scores, torch.tensor([[(0.5 + 1) / 2, 1.0]]))


def test_the_padding_takes_no_part():
    # the image is the left half; the large norm in the padding neither scales nor leaks
    scores = feature_scores([features(1.0, 2.0, 100.0, 100.0)], (2, 8), (2, 4))
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.625, 0.875, 1.0]] * 2))


def test_features_of_zeros_score_zero():
    assert feature_scores([torch.zeros(2, 1, 1)], (4, 4), (4, 4)).tolist() == [[0.0] * 4] * 4


def test_cells_that_begin_in_the_image_are_valid():
    assert valid_cells((4, 4), (32, 32), (17, 16)) == (3, 2)  # strides of 8
    assert valid_cells((1, 1), (32, 32), (1, 1)) == (1, 1)


def test_resizing_keeps_to_the_image():
    cells = torch.tensor([[1.0, 9.0], [9.0, 9.0]])
    assert resize_to_image(cells, (4, 4), (2, 1)).tolist() == [[1.0], [1.0]]


def test_attention_is_summed_over_levels():
    fine, coarse = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]])
    scores = attention_scores([fine, coarse], (1, 2), (1, 2))
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.75]]))
    assert not attention_scores([torch.zeros(1, 2)], (1, 2), (1, 2)).any()


def test_maps_as_drawn():
    pictures = [
        ScoredPicture(
            np.full((2, 4, 3), 9 * number, np.uint8),
            np.array([[0.0, 0.0, 3.0, 1.0]])[:number],
            {"K = 0": np.full((2, 4), 0.1), "K = 1": np.eye(3) * number},
        )
        for number in (0, 1)  # the first one without objects
    ]
    figure = draw_score_maps(pictures)
    images = [axes.images[0].get_array() for axes in figure.axes]
    assert len(images) == 6
    np.testing.assert_array_equal(images[3], pictures[1].picture)
    np.testing.assert_array_equal(images[4], pictures[1].scores["K = 0"])
    np.testing.assert_array_equal(images[5], np.eye(3))
    assert [axes.get_title() for axes in figure.axes[:3]] == ["picture", "K = 0", "K = 1"]
    assert [len(axes.patches) for axes in figure.axes] == [0, 0, 0, 1, 0, 0]
    assert figure.axes[3].patches[0].get_bbox().extents == pytest.approx([-0.5, -0.5, 2.5, 0.5])
