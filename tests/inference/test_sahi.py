"""SAHI's sliced prediction with a detector behind its interface."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

pytest.importorskip("sahi")

from sahi.predict import get_prediction, get_sliced_prediction  # noqa: E402

from co_detr.inference.sahi import CoDetrDetectionModel  # noqa: E402


class BrightestSpot:
    """Finds the rectangle of bright pixels of each picture; with its mask if wanted."""

    class_names = ["dark", "bright"]

    def __init__(self, masks=False):
        self.masks = masks

    def predict(self, images, threshold):
        results = []
        for image in images:
            mask = image[:, :, 0] > 0
            rows, columns = np.nonzero(mask)
            box = (
                [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
                if len(rows)
                else []
            )
            found = Instances(image.shape[:2])
            found.pred_boxes = Boxes(torch.tensor(box, dtype=torch.float32).view(-1, 4))
            found.scores = torch.full((len(box),), 0.8)
            found.pred_classes = torch.ones(len(box), dtype=torch.int64)
            if self.masks:
                found.pred_masks = torch.as_tensor(mask)[None][: len(box)]
            results.append(found[found.scores >= threshold])
        return results


@pytest.fixture
def picture():
    image = np.zeros((150, 200, 3), dtype=np.uint8)
    image[100:120, 130:150] = 255
    return image


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_slices_find_the_object_where_it_is_in_the_picture(picture, masks, batch_size):
    model = CoDetrDetectionModel(model=BrightestSpot(masks), confidence_threshold=0.5)
    result = get_sliced_prediction(
        picture, model, slice_height=64, slice_width=64, batch_size=batch_size, verbose=0
    )
    (found,) = result.object_prediction_list
    assert found.bbox.to_xyxy() == pytest.approx([130, 100, 150, 120], abs=1)
    assert (found.category.id, found.category.name) == (1, "bright")
    assert found.score.value == pytest.approx(0.8)


def test_scores_below_the_threshold_are_left_out(picture):
    model = CoDetrDetectionModel(model=BrightestSpot(), confidence_threshold=0.9)
    assert get_prediction(picture, model, verbose=0).object_prediction_list == []
