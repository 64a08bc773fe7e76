"""Weighted boxes fusion, by hand; what the other fusion makes of views is in `test_tta.py`."""

import importlib.util

import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.inference.fusion import WeightedBoxesFusion


def view(*detections: tuple[list[float], float, int]) -> Instances:
    """Boxes, scores and classes in a picture of 100 x 200 pixels."""
    found = Instances((100, 200))
    boxes, scores, classes = zip(*detections) if detections else ([], [], [])
    found.pred_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    found.scores = torch.tensor(scores, dtype=torch.float32)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return found


@pytest.fixture
def fusion():
    pytest.importorskip("ensemble_boxes", reason='needs ensemble-boxes: pip install -e ".[tta]"')
    return WeightedBoxesFusion()


def test_boxes_of_an_object_are_averaged_by_score_and_keep_the_best_one(fusion):
    alone = ([150.0, 50.0, 160.0, 60.0], 0.5, 2)
    views = [
        view(([20.0, 0.0, 30.0, 10.0], 0.9, 1), alone),
        view(([20.0, 0.0, 34.0, 10.0], 0.3, 1), ([20.0, 0.0, 30.0, 10.0], 0.2, 0)),
    ]
    merged = fusion(views)
    assert merged.image_size == (100, 200)
    assert merged.pred_classes.tolist() == [1, 2, 0]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5, 0.2])
    # x2 = (0.9 * 30 + 0.3 * 34) / 1.2
    expected = torch.tensor([[20.0, 0, 31, 10], [150, 50, 160, 60], [20, 0, 30, 10]])
    torch.testing.assert_close(merged.pred_boxes.tensor, expected, atol=1e-4, rtol=0)


def test_views_that_saw_nothing_merge_to_nothing(fusion):
    merged = fusion([view(), view()])
    assert len(merged) == 0 and merged.pred_boxes.tensor.shape == (0, 4)
    assert merged.pred_classes.dtype == torch.int64


def test_masks_are_refused_by_weighted_boxes_fusion(fusion):
    found = view(([0.0, 0.0, 10.0, 10.0], 0.5, 0))
    found.pred_masks = torch.ones(1, 100, 200, dtype=torch.bool)
    with pytest.raises(ValueError, match="fusion=Suppressing"):
        fusion([found, found])


def test_the_missing_package_is_said_before_the_first_picture(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"co-detr\[tta\]"):
        WeightedBoxesFusion()
