"""Large pictures in tiles, and objects followed over frames, with detectors made for it."""

import numpy as np
import pytest
import supervision
import torch
from detectron2.structures import Boxes, Instances

from co_detr.inference.tiles import detect_in_tiles
from co_detr.inference.tracking import NOT_TRACKED, Tracker, make_tracker


def bright_pixels(pictures):
    """One detection around what is brighter than black, if there is anything; class 1."""
    found = []
    for picture in pictures:
        rows, columns = np.nonzero(picture[:, :, 0])
        instances = Instances(picture.shape[:2])
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
        instances.pred_boxes = Boxes(torch.tensor(box, dtype=torch.float32).view(-1, 4))
        # an object that is cut has a lower score
        area = instances.pred_boxes.area()
        instances.scores = 0.1 + area / 1000
        instances.pred_classes = torch.ones(len(box), dtype=torch.int64)
        found.append(instances)
    return found


@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_find_each_object_once_where_it_is(batch_size):
    picture = np.zeros((200, 300, 3), dtype=np.uint8)
    picture[80:100, 85:105] = 255  # whole in one tile, and also (partly) in its neighbours
    sizes = []

    def detect(tiles):
        sizes.extend(tile.shape[:2] for tile in tiles)
        return bright_pixels(tiles)

    found = detect_in_tiles(detect, picture, tile=100, overlap=40, batch_size=batch_size)
    assert max(sizes) == (100, 100) and len(sizes) > 6
    assert found.image_size == (200, 300)
    assert found.pred_boxes.tensor[0].tolist() == [85, 80, 105, 100]
    assert found.pred_classes.tolist() == [1] * len(found)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.scores[0] == pytest.approx(0.5)


def test_a_dark_picture_has_nothing():
    found = detect_in_tiles(bright_pixels, np.zeros((50, 120, 3), np.uint8), tile=64, overlap=8)
    assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("overlap", [-1, 64, 100])
def test_tiles_that_do_not_advance_are_refused(overlap):
    with pytest.raises(ValueError, match=str(overlap)):
        detect_in_tiles(bright_pixels, np.zeros((99, 99, 3), np.uint8), tile=64, overlap=overlap)


class FollowsTheLargest:
    """supervision's interface of a tracker: the largest box is number 5; the order is reversed."""

    def update(self, detections: supervision.Detections) -> supervision.Detections:
        reversed_ = detections[np.arange(len(detections))[::-1]]
        largest = reversed_.box_area == reversed_.box_area.max(initial=0)
        reversed_.tracker_id = np.where(largest, 5, NOT_TRACKED)
        return reversed_


def test_numbers_stay_with_their_detections():
    instances = Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor([[0.0, 0, 50, 50], [60, 60, 70, 70]])),
        scores=torch.tensor([0.9, 0.8]),
        pred_classes=torch.tensor([3, 4]),
        pred_masks=torch.zeros(2, 100, 100, dtype=torch.bool),
    )
    followed = Tracker(tracker=FollowsTheLargest())(instances)
    assert followed.pred_classes.tolist() == [4, 3]
    assert followed.track_ids.tolist() == [NOT_TRACKED, 5]
    assert followed.pred_boxes.tensor[1].tolist() == [0, 0, 50, 50]
    assert followed.pred_masks.shape == (2, 100, 100)
    assert len(Tracker(tracker=FollowsTheLargest())(instances[:0])) == 0


def test_an_unknown_tracker_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="bytetrack"):
        make_tracker("deepsort")


def test_a_moving_object_keeps_its_number():
    pytest.importorskip("trackers")
    tracker = Tracker("bytetrack", threshold=0.3)
    numbers = []
    for step in range(12):
        instances = Instances(
            (200, 200),
            pred_boxes=Boxes(torch.tensor([[3.0 * step, 10, 3 * step + 40, 60]])),
            scores=torch.tensor([0.4]),
            pred_classes=torch.tensor([0]),
        )
        numbers += tracker(instances).track_ids.tolist()
    assert len(tracker(instances[:0])) == 0
    assert len(numbers) == 12
    assert numbers[-1] >= 0 and set(numbers[-8:]) == {numbers[-1]}
