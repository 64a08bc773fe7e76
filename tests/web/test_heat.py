"""Heat maps: in place, between 0 and 1, and without a trace in the model."""

import numpy as np
import pytest
import torch
from lively import HEIGHT, WIDTH, lively_detector
from torch import nn
from trained import trained

from co_detr import load_detector
from co_detr.analysis.head_maps import head_maps, prepare_heads
from co_detr.web import heat
from co_detr.web.heat import BRANCH, ENCODER, heat_map, kinds_of, with_heat

PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return lively_detector(tmp_path_factory.mktemp("heat"))


def test_which_maps_a_model_has(detector, tmp_path):
    assert kinds_of(detector.model) == [BRANCH, ENCODER]
    encoder = load_detector(trained(tmp_path, "encoder_heads/encoder_atss_digits"), device="cpu")
    assert kinds_of(encoder.model) == [ENCODER]
    assert heat_map(encoder, PICTURE, ENCODER, "atss").shape == (HEIGHT, WIDTH)
    assert kinds_of(nn.Identity()) == []


@pytest.mark.parametrize("branch", ["matching", "rcnn", "atss"])
def test_a_branch_detects_as_before_its_map(detector, branch):
    model = detector.model
    model.eval_branch = branch
    (before,) = detector.predict([PICTURE])
    values = heat_map(detector, PICTURE, BRANCH, branch)
    assert values.shape == (HEIGHT, WIDTH) and (values.min(), values.max()) == (0, 1)
    (after,) = detector.predict([PICTURE])
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)


def test_the_map_is_that_of_the_branch(tmp_path):
    detector = lively_detector(tmp_path)
    found = {name: heat_map(detector, PICTURE, BRANCH, name) for name in detector.model.branches}
    prepare_heads(detector.model)
    expected = head_maps(detector.model, [detector.input_of(PICTURE)])[0]
    for cells, values in zip(expected, found.values(), strict=True):
        hottest = np.unravel_index(values.argmax(), values.shape)
        row, column = np.unravel_index(cells.argmax(), cells.shape)
        assert abs(hottest[0] - 8 * row) <= 8 and abs(hottest[1] - 8 * column) <= 8
    assert not np.array_equal(found["matching"], found["atss"])


@pytest.mark.parametrize("canvas", [None, 256])
def test_a_hot_cell_is_hot_where_it_lies_in_the_picture(canvas, tmp_path, monkeypatch):
    """The cell of the row 2 and the column 3, of 8 pixels each, in a picture twice as large as the
    model sees it. On a canvas there are cells beside the picture, too: they are cut off."""
    changes = {"mask_padding": False, "canvas": canvas} if canvas else {}
    detector = lively_detector(tmp_path, resize=(HEIGHT, WIDTH), **changes)
    cells = torch.zeros(32, 32) if canvas else torch.zeros(HEIGHT // 8, WIDTH // 8)
    cells[2, 3] = 0.5
    if canvas:
        cells[30, 30] = 1  # in the gray
    monkeypatch.setattr(heat, "head_maps", lambda *_: [cells[None]])
    values = heat_map(detector, PICTURE.repeat(2, 0).repeat(2, 1), BRANCH, "atss")
    assert values.shape == (2 * HEIGHT, 2 * WIDTH)
    assert (values[36:44, 52:60] > 0.6).all()  # around the centre of the cell, at (40, 56)
    outside = values.copy()
    outside[22:58, 38:74] = 0  # up to the centres of the cells beside it
    assert values.max() == 1 and outside.max() == 0


def test_a_map_without_differences_is_cold(detector, monkeypatch):
    monkeypatch.setattr(heat, "feature_scores", lambda *_: torch.full((HEIGHT, WIDTH), 0.7))
    assert not heat_map(detector, PICTURE, ENCODER, "").any()


def test_colours_over_a_gray_picture():
    picture = np.array([[[200, 200, 200], [255, 0, 0]]], np.uint8)
    drawn = with_heat(picture, np.array([[0.0, 1.0]]))
    # turbo goes from (48, 18, 59) to (122, 4, 2); red is a gray of 76
    expected = [[0.45 * 200 + 0.55 * v for v in (48, 18, 59)]]
    expected.append([0.45 * 76 + 0.55 * v for v in (122, 4, 2)])
    np.testing.assert_allclose(drawn[0], expected, atol=0.51)
