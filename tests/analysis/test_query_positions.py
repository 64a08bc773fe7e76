"""Positions of original and customized queries and their distances, worked by hand."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.analysis.plots.query_positions import (
    ObjectQueries,
    colors_of,
    draw_distances,
    draw_positions,
)
from co_detr.analysis.query_positions import (
    Distances,
    Positions,
    customized_positions,
    original_positions,
)

CLASSES = 2


def positions(points, objects):
    return Positions(torch.tensor(points).reshape(-1, 2), torch.tensor(objects, dtype=torch.int64))


@pytest.mark.parametrize("size", [[], [0.2, 0.2]])  # references are points or boxes
def test_original_queries(size):
    reference = torch.tensor([[0.1, 0.2, *size], [0.3, 0.4, *size], [0.5, 0.6, *size]])
    original, negatives = original_positions(reference, torch.tensor([1, -1, 0]))
    torch.testing.assert_close(original.of(0), torch.tensor([[0.5, 0.6]]))
    torch.testing.assert_close(original.of(1), torch.tensor([[0.1, 0.2]]))
    torch.testing.assert_close(negatives, torch.tensor([[0.3, 0.4]]))


def test_customized_queries_and_their_objects():
    one, other, nothing = [0.0, 0.0, 40.0, 10.0], [60.0, 0.0, 100.0, 20.0], [0.0] * 4
    boxes, labels = torch.tensor([one, other, one]), torch.tensor([0, 1, 1])  # two in one place
    samples = Instances(
        (20, 100),
        proposal_boxes=Boxes(
            torch.tensor([[0.0, 0.0, 20.0, 10.0]] * 3 + [[80.0, 10.0, 100.0, 20.0]] * 2)
        ),
        gt_classes=torch.tensor([0, 1, 2, 1, -1]),
        gt_boxes=Boxes(torch.tensor([one, one, nothing, other, nothing])),
    )
    scale = torch.tensor([100.0, 20.0, 100.0, 20.0])
    found = customized_positions(samples, boxes, labels, scale, CLASSES)
    assert found.objects.tolist() == [0, 2, 1]
    torch.testing.assert_close(found.points, torch.tensor([[0.1, 0.25], [0.1, 0.25], [0.9, 0.75]]))


def test_an_image_without_objects_has_no_customized_queries():
    samples = Instances(
        (20, 100),
        proposal_boxes=Boxes(torch.rand(1, 4)),
        gt_classes=torch.tensor([CLASSES]),
        gt_boxes=Boxes(torch.zeros(1, 4)),
    )
    labels = torch.empty(0, dtype=torch.int64)
    found = customized_positions(samples, torch.empty(0, 4), labels, torch.ones(4), CLASSES)
    assert found.points.shape == (0, 2) and found.objects.shape == (0,)
    distances = Distances()
    distances.add(found, positions([], []), torch.rand(3, 2))
    assert all(map(math.isnan, distances.means()))


def test_average_distances():
    distances = Distances()
    # an object with customized queries 0.3 and 0.4 away from its original one, and one 0.5 away;
    # a fourth belongs to an object without an original query
    customized = positions([[0.3, 0.0], [0.0, 0.4], [0.7, 0.4], [0.9, 0.9]], [0, 0, 1, 2])
    original = positions([[1.0, 0.8], [0.0, 0.0]], [1, 0])
    distances.add(customized, original, torch.tensor([[0.3, 0.4]]))
    to_positives, to_negatives = distances.means()
    assert to_positives == pytest.approx((0.3 + 0.4 + 0.5) / 3)
    assert to_negatives == pytest.approx((0.4 + 0.3 + 0.4) / 3)
    # an image whose queries are all matched, and so has no negative ones
    distances.add(positions([[0.6, 0.0]], [0]), positions([[0.0, 0.0]], [0]), torch.empty(0, 2))
    assert distances.means() == pytest.approx(((0.3 + 0.4 + 0.5 + 0.6) / 4, to_negatives))


def test_points_as_drawn():
    each = ObjectQueries(
        np.zeros((40, 60, 3), np.uint8),
        np.array([10.0, 10.0, 20.0, 14.0]),
        np.array([[15.0, 12.0]]),
        {"atss": np.array([[12.0, 11.0], [14.0, 13.0]]), "fcos": np.empty((0, 2))},
    )
    figure = draw_positions({"K = 1": [each]})
    axes = figure.axes[0]
    drawn = {dots.get_label(): dots.get_offsets() for dots in axes.collections}
    np.testing.assert_array_equal(drawn["original"], [[14.5, 11.5]])
    np.testing.assert_array_equal(drawn["atss"], [[11.5, 10.5], [13.5, 12.5]])
    assert len(drawn["fcos"]) == 0
    # 25 pixels around (15, 12), moved into the picture
    assert (axes.get_xlim(), axes.get_ylim()) == ((2.0, 27.0), (24.5, -0.5))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["original", "atss", "fcos"]


def test_heads_have_the_papers_colours_or_others():
    colors = colors_of(["fcos", "rcnn", "atss", "gfl"])
    assert (colors["rcnn"], colors["atss"]) == ("tab:blue", "tab:orange")
    assert len(set(colors.values())) == 4 and "tab:red" not in colors.values()


def test_distances_as_drawn():
    axes = draw_distances(["rcnn", "atss"], [0.07, 0.08], [0.44, 0.45]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.07, 0.08, 0.44, 0.45]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["rcnn", "atss"]
