"""Positives per object of heads with known samples."""

import pytest
import torch
from detectron2.structures import Instances

from co_detr.analysis.plots.positives import draw_positives
from co_detr.analysis.positives import PositiveCounts

CLASSES = 3


def samples(*labels):
    return Instances((8, 8), gt_classes=torch.tensor(labels, dtype=torch.int64))


def test_two_objects_in_two_images():
    counts = PositiveCounts()
    # background is 3, ignored -1; the second image has no object
    atss = [samples(0, 0, 2, 3, -1), samples(3, 3)]
    counts.add({"atss": atss, "fcos": [samples(1), samples()]}, 2, CLASSES)
    counts.add({"atss": [samples(1, 2, 2)], "fcos": [samples(3)]}, 1, CLASSES)
    assert counts.positives == {"atss": 6, "fcos": 1}
    assert counts.per_object() == {"atss": 2, "fcos": pytest.approx(1 / 3)}


def test_without_objects_there_is_no_ratio():
    counts = PositiveCounts()
    counts.add({"atss": [samples(3)]}, 0, CLASSES)
    with pytest.raises(ValueError, match="none of the images has an object"):
        counts.per_object()


def test_bars_as_drawn():
    axes = draw_positives(["rcnn", "atss"], [18.7, 8.8]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [18.7, 8.8]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["rcnn", "atss"]
    assert [text.get_text() for text in axes.texts] == ["18.7", "8.8"]
