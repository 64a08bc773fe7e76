"""IoF-IoB curves of small score maps, and that they are what is drawn."""

import numpy as np
import pytest
import torch

from co_detr.analysis.discriminability import IofIob, contrast, inside_boxes, regions
from co_detr.analysis.plots.discriminability import draw_curves

NONE = torch.empty(0, 4)
FIRST = torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # the upper left pixel


def curve(*images, crowds=NONE):
    counter = IofIob()
    for scores, boxes in images:
        scores = torch.tensor(scores)
        counter.add(scores, *regions(boxes, crowds, tuple(scores.shape)))
    return counter.curve()


def at(found, threshold):
    """(IoF, IoB) at the largest threshold of a curve that is not above one."""
    place = int((found.thresholds <= threshold).sum()) - 1
    return found.iof[place].item(), found.iob[place].item()


def test_two_by_two_pixels_by_hand():
    found = curve(([[0.5, 0.75], [0.25, 0.125]], FIRST))
    assert at(found, -1e-9) == (1, 1)
    assert at(found, 0.125) == pytest.approx((1, 2 / 3))  # above, not at the threshold
    assert at(found, 0.3) == pytest.approx((1, 1 / 3))
    assert at(found, 0.5) == pytest.approx((0, 1 / 3))
    assert at(found, 1) == (0, 0)
    assert found.area == pytest.approx(2 / 3)  # the object's pixel is above two of three


@pytest.mark.parametrize(
    "scores, area",
    [
        ([[0.9, 0.1], [0.2, 0.3]], 1),
        ([[0.1, 0.9], [0.2, 0.3]], 0),
        ([[0.5, 0.5], [0.5, 0.5]], 0.5),  # says nothing
        ([[0.0, 0.0], [0.0, 0.0]], 0.5),
        ([[1.0, 1.0], [0.0, 0.0]], (0.5 + 1 + 1) / 3),  # half of a tie
    ],
)
def test_area_is_the_share_of_pairs_in_order(scores, area):
    assert curve((scores, FIRST)).area == pytest.approx(area)


def test_pixels_of_all_images_are_pooled():
    # the object at 0.4 is above two of three background pixels; averaged by image it would be 1/2
    found = curve(([[0.4, 0.1, 0.2]], FIRST), ([[0.9]], NONE))
    assert found.area == pytest.approx(2 / 3)


def test_pixels_of_crowds_alone_do_not_count():
    crowd = torch.tensor([[0.0, 0.0, 2.0, 1.0]])  # the object's pixel, and the one beside it
    found = curve(([[0.5, 0.75], [0.25, 0.125]], FIRST), crowds=crowd)
    assert found.area == 1


def test_boxes_however_small_hold_the_pixels_they_touch():
    inside = inside_boxes(torch.tensor([[1.2, 0.4, 1.3, 0.5], [2.0, 1.0, 3.0, 2.0]]), (2, 4))
    assert inside.tolist() == [[False, True, False, False], [False, False, True, False]]
    assert not inside_boxes(NONE, (2, 4)).any()


@pytest.mark.parametrize("boxes, what", [(NONE, "foreground"), (FIRST, "background")])
def test_there_must_be_both(boxes, what):
    with pytest.raises(ValueError, match=f"not a pixel is {what}"):
        curve(([[0.5]], boxes))


def test_contrast_of_an_image():
    scores = torch.tensor([[0.5, 0.75, 0.25]])
    assert contrast(scores, *regions(FIRST, NONE, (1, 3))) == pytest.approx((0.5, 0.5, 0.5))
    objects, background, area = contrast(scores, *regions(NONE, NONE, (1, 3)))
    assert np.isnan([objects, area]).all() and background == 0.5


def test_a_thinned_curve_is_the_same_line():
    scores = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    counter = IofIob()
    counter.add(scores, *regions(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), NONE, (100, 100)))
    found = counter.curve()
    thin = found.thinned()
    assert len(thin.iof) <= 1003 < len(found.iof)
    assert (thin.iof[0], thin.iob[0], thin.iof[-1], thin.iob[-1]) == (1, 1, 0, 0)
    between = np.interp(found.iob, thin.iob.flip(0), thin.iof.flip(0))
    assert np.abs(between - found.iof.numpy()).max() < 0.005


def test_curves_as_drawn():
    low, high = (curve(([[value, 0.5], [0.25, 0.1]], FIRST)) for value in (0.3, 0.9))
    figure = draw_curves([("encoder", {"K = 0": low, "K = 1": high}), ("decoder", {"K = 1": low})])
    left, right = figure.axes
    for axes, name, expected in ((left, "K = 0 (0.667)", low), (left, "K = 1 (1.000)", high)):
        (line,) = [line for line in axes.lines if line.get_label() == name]
        np.testing.assert_array_equal(line.get_xdata(), expected.thinned().iob)
        np.testing.assert_array_equal(line.get_ydata(), expected.thinned().iof)
    assert right.lines[0].get_color() == left.lines[1].get_color()  # of the same model
    assert (right.get_xlabel(), right.get_ylabel()) == ("IoB", "IoF")
