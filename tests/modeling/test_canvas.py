"""Padding that counts as image: the canvas of large-scale jittering, and boxes in the output."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from golden import co_deformable_detr_config

from co_detr.modeling.base_detector import pad_to_canvas, rescale


def test_images_are_padded_with_gray_at_the_right_and_below():
    image = torch.full((3, 4, 6), 200, dtype=torch.uint8)
    padded = pad_to_canvas(image, 8)
    assert tuple(padded.shape) == (3, 8, 8) and padded.dtype == torch.uint8
    assert (padded[:, :4, :6] == 200).all()
    assert (padded[:, 4:] == 114).all() and (padded[:, :, 6:] == 114).all()


def test_an_image_larger_than_the_canvas_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"9x4 pixels.*canvas of 8.*ResizeShortestEdge\(8, 8\)"):
        pad_to_canvas(torch.zeros(3, 9, 4), 8)


def test_detections_on_a_canvas_come_back_at_the_scale_of_the_image():
    # a picture of 50 x 100 was enlarged to 80 x 160 and padded to 160 x 160
    found = Instances((160, 160))
    found.pred_boxes = Boxes(torch.tensor([[16.0, 8.0, 80.0, 40.0], [0.0, 60.0, 32.0, 120.0]]))
    found.scores = torch.tensor([0.9, 0.5])
    inputs = [{"image": torch.zeros(3, 80, 160), "height": 50, "width": 100}]
    result = rescale([found], inputs)[0]["instances"]
    assert result.image_size == (50, 100)
    # the second box reaches into the padding, which starts at 80: it is clipped to the picture
    assert result.pred_boxes.tensor.tolist() == [[10, 5, 50, 25], [0, 37.5, 20, 50]]
    assert found.image_size == (160, 160)


def test_detections_that_lie_in_the_padding_go():
    found = Instances((64, 64))
    found.pred_boxes = Boxes(torch.tensor([[0.0, 40.0, 9.0, 60.0], [0.0, 0.0, 9.0, 9.0]]))
    found.scores = torch.tensor([0.9, 0.5])
    result = rescale([found], [{"image": torch.zeros(3, 32, 64)}])[0]["instances"]
    assert result.scores.tolist() == [0.5]


def _model(**options):
    torch.manual_seed(0)
    cfg = co_deformable_detr_config()
    # so many that, whatever the initial weights, some lie inside of the picture and some outside
    cfg.query_sources.matching.num_queries = cfg.postprocess.max_detections = 300
    cfg.update(options)
    return instantiate(cfg)


def _example(image):
    instances = Instances(tuple(image.shape[-2:]))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 8.0, 50.0, 40.0]]))
    instances.gt_classes = torch.tensor([3])
    return {"image": image, "instances": instances}


def test_a_model_with_a_canvas_sees_what_jittered_training_images_show():
    model = _model(mask_padding=False, canvas=128)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    padded = pad_to_canvas(image, 128)
    losses = []
    for each in (image, padded):
        torch.manual_seed(1)
        losses.append(model([_example(each)]))
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert torch.equal(loss, losses[1][name]), name

    model.eval()
    with torch.no_grad():
        (alone,), (whole,) = model([{"image": image}]), model([{"image": padded}])
    # the same detections; those of the smaller image are clipped to it
    clipped = whole["instances"].pred_boxes.clone()
    clipped.clip((64, 96))
    inside = clipped.nonempty()
    assert inside.any()
    assert torch.allclose(alone["instances"].pred_boxes.tensor, clipped.tensor[inside], atol=1e-3)
    assert torch.equal(alone["instances"].scores, whole["instances"].scores[inside])


def test_padding_of_a_batch_counts_as_image_only_where_it_is_not_masked():
    images = [torch.zeros(3, 64, 96), torch.zeros(3, 96, 64)]
    batch = [{"image": image} for image in images]
    assert _model().preprocess(batch)[1] == [(64, 96), (96, 64)]
    assert _model(mask_padding=False).preprocess(batch)[1] == [(96, 96), (96, 96)]


def test_a_canvas_needs_a_model_that_takes_padding_as_image():
    with pytest.raises(ValueError, match="canvas=128 is for models with mask_padding=False"):
        _model(canvas=128)
