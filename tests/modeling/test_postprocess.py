"""From predictions to detections, by hand."""

import pytest
import torch

from co_detr.modeling.postprocess import TopKDetections
from co_detr.ops.soft_nms import NMS, SoftNMS

# Two queries of an image 50 high and 100 wide, both with its left half; three classes.
BOXES = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.25, 0.5, 0.5, 1.0]]])
SCORES = torch.tensor([[[0.9, 0.2, 0.7], [0.8, 0.1, 0.3]]])
SIZES = [(50, 100)]


def detect(boxes=BOXES, **options):
    (found,) = TopKDetections(**options)(SCORES.logit(), boxes, SIZES)
    return found


def test_one_query_may_yield_several_detections():
    found = detect(max_detections=4)
    assert found.image_size == (50, 100)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.3])
    assert found.pred_classes.tolist() == [0, 0, 2, 2]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 50, 50]] * 4


def test_boxes_are_clipped_to_the_image():
    found = detect(boxes=torch.tensor([[[0.0, 0.5, 1.0, 1.2], [1.0, 1.0, 0.5, 0.5]]]))
    assert found.pred_boxes.tensor[0].tolist() == [0, 0, 50, 50]
    assert found.pred_boxes.tensor[1].tolist() == pytest.approx([75, 37.5, 100, 50])


def test_suppression_gets_as_many_pairs_as_there_are_queries():
    """So the 0.7 of class 2, which nothing suppresses, is not among the candidates."""
    found = detect(max_detections=4, suppression=NMS(0.5))
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.pred_classes.tolist() == [0]


def test_lowered_scores_are_reported_and_cut_to_the_best():
    boxes = BOXES.clone()
    boxes[0, 1, 2] = 0.25  # half as wide about the same centre: IoU 0.5
    found = detect(boxes, max_detections=4, suppression=SoftNMS(iou_threshold=0.5))
    assert found.scores.tolist() == pytest.approx([0.9, 0.4])
    assert found.pred_boxes.tensor[1].tolist() == [12.5, 0, 37.5, 50]
    found = detect(boxes, max_detections=1, suppression=SoftNMS(iou_threshold=0.5))
    assert found.scores.tolist() == pytest.approx([0.9])


def test_no_more_detections_than_pairs():
    assert len(detect(max_detections=100)) == 6
