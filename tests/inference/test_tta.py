"""Test-time augmentation: what the views are, and what becomes of their detections."""

import pytest
import torch
from detectors import build, full
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from co_detr import model_zoo
from co_detr.data import ResizeShortestEdge
from co_detr.inference.detector import Detector
from co_detr.inference.fusion import Suppressing
from co_detr.inference.tta import (
    WithTestTimeAugmentation,
    augment_evaluation,
    augmented,
    flipped,
)
from co_detr.ops.soft_nms import NMS

BRIGHT = 200
DIGITS = "co_deformable_detr/co_deformable_detr_digits"


class BrightestSpot(nn.Module):
    """Detects the rectangle of bright pixels, with a score that depends on the view."""

    def __init__(self, canvas: int | None = None, scores: dict[int, float] | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.canvas = canvas
        self.scores = scores or {}
        self.seen: list[tuple[int, int]] = []

    def forward(self, batched_inputs):
        if self.training:
            return {"loss": self.layer.weight.sum()}
        results = []
        for x in batched_inputs:
            image = x["image"]
            self.seen.append(tuple(image.shape[-2:]))
            mask = image[0] > BRIGHT // 2
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            found = Instances(tuple(image.shape[-2:]))
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
            found.scores = torch.tensor([self.scores.get(image.shape[-1], 0.5)])
            found.pred_classes = torch.tensor([2])
            found = detector_postprocess(found, x["height"], x["width"])
            results.append({"instances": found})
        return results


def picture(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = BRIGHT
    return image


def test_views_of_one_object_become_one_detection_in_the_picture_s_frame():
    model = BrightestSpot(scores={100: 0.9})
    augmented = WithTestTimeAugmentation(model, scales=(0.5, 1, 2), fusion=Suppressing(NMS(0.6)))
    batch = [{"image": picture(40, 100, (20, 10, 60, 30)), "height": 80, "width": 200}]
    found = augmented.eval()(batch)[0]["instances"]
    assert model.seen == [(20, 50)] * 2 + [(40, 100)] * 2 + [(80, 200)] * 2
    assert found.image_size == (80, 200)
    assert found.pred_boxes.tensor.tolist() == [[40, 20, 120, 60]]
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.pred_classes.tolist() == [2]


def test_every_picture_of_a_batch_gets_its_own_detections():
    batch = [
        {"image": picture(40, 100, (0, 0, 10, 10))},
        {"image": picture(60, 50, (40, 50, 50, 60))},
    ]
    augmented = WithTestTimeAugmentation(BrightestSpot(), fusion=Suppressing(NMS(0.6)))
    first, second = (output["instances"] for output in augmented.eval()(batch))
    assert first.pred_boxes.tensor[0].tolist() == pytest.approx([0, 0, 10, 10], abs=0.7)
    assert second.pred_boxes.tensor[0].tolist() == pytest.approx([40, 50, 50, 60], abs=0.7)
    assert (first.image_size, second.image_size) == ((40, 100), (60, 50))


def test_sizes_are_multiples_of_what_the_test_pipeline_makes():
    augmented = WithTestTimeAugmentation(
        BrightestSpot(), short_edge_length=80, max_size=133, scales=(1, 2)
    )
    for size in [(48, 64), (30, 100), (100, 7)]:
        resize = ResizeShortestEdge(80, 133).get_transform(torch.zeros(*size, 3).numpy())
        assert augmented.size_at(1, size) == (resize.new_h, resize.new_w)
    assert augmented.size_at(2, (48, 64)) == (160, 213)
    assert augmented.size_at(2, (30, 100)) == (80, 266)


def test_no_view_is_larger_than_the_canvas_or_there_twice():
    model = BrightestSpot(canvas=100)
    augmented = WithTestTimeAugmentation(model, scales=(0.5, 1, 2, 3), flip=False).eval()
    augmented([{"image": picture(50, 80, (0, 0, 5, 5))}])
    assert model.seen == [(25, 40), (50, 80), (63, 100)]


def test_without_other_views_detections_are_the_detector_s_own():
    torch.manual_seed(0)
    model = build(full()).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96)).float()
    batch = [{"image": image, "height": 128, "width": 192} for image in images]
    same = WithTestTimeAugmentation(model, scales=(1,), flip=False).eval()
    with torch.no_grad():
        for ours, plain in zip(same(batch), model(batch)):
            for name, value in plain["instances"].get_fields().items():
                other = ours["instances"].get(name)
                tensors = (value.tensor, other.tensor) if name == "pred_boxes" else (value, other)
                assert torch.equal(*tensors), name


def test_masks_are_mirrored_with_their_boxes():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1, 4] = True
    found = Instances((4, 6), pred_boxes=Boxes(torch.tensor([[4.0, 1, 5, 2]])), pred_masks=mask)
    mirrored = flipped(found)
    assert mirrored.pred_boxes.tensor.tolist() == [[1, 1, 2, 2]]
    assert mirrored.pred_masks.nonzero().tolist() == [[0, 1, 1]]
    assert flipped(mirrored).pred_masks.equal(mask)


def test_weights_have_the_names_of_the_detector_and_training_is_its_own():
    model = BrightestSpot()
    augmented = WithTestTimeAugmentation(model)
    assert set(augmented.state_dict()) == set(model.state_dict())
    weights = {"layer.weight": torch.full((3, 2), 7.0), "layer.bias": torch.zeros(3)}
    augmented.load_state_dict(weights)
    assert model.layer.weight.eq(7).all()
    inside = nn.ModuleDict({"detector": augmented})
    assert set(inside.state_dict()) == {"detector.layer.weight", "detector.layer.bias"}
    inside.load_state_dict({f"detector.{name}": value - 1 for name, value in weights.items()})
    assert model.layer.weight.eq(6).all()
    assert augmented.train()([]) == {"loss": 36}


@pytest.mark.parametrize("scales", [(), (1, 0), (-1,)])
def test_scales_that_make_no_picture_are_refused(scales):
    with pytest.raises(ValueError, match="scales"):
        WithTestTimeAugmentation(BrightestSpot(), scales=scales)


def detections(*rows: tuple[float, ...]) -> Instances:
    table = torch.tensor(rows).view(-1, 6)
    return Instances(
        (100, 100),
        pred_boxes=Boxes(table[:, :4]),
        scores=table[:, 4],
        pred_classes=table[:, 5].long(),
    )


def test_soft_suppression_lowers_what_overlaps_within_a_class():
    views = [
        detections((0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.3, 1)),
        detections((0, 0, 10, 8, 0.5, 0), (0, 0, 10, 10, 0.4, 1)),
        detections(),
    ]
    merged = Suppressing()(views)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.4, 0.3, 0.1])  # 0.5 * (1 - 0.8)
    assert merged.pred_classes.tolist() == [0, 1, 1, 0]


def test_nothing_found_in_any_view_is_nothing():
    assert len(Suppressing()([detections(), detections()])) == 0


def test_a_loaded_detector_is_augmented_from_whole_pictures_as_it_was_trained():
    class Seeing(BrightestSpot):
        def forward(self, batched_inputs):
            return super().forward([{**x, "image": x["image"].float()} for x in batched_inputs])

    array = picture(40, 100, (20, 10, 60, 30)).permute(1, 2, 0).numpy()
    for mirrored, looks in [(False, 1), (True, 2)]:
        model = Seeing()
        plain = Detector(model, [], min_size=20, max_size=1000, mirrored=mirrored)
        (found,) = augmented(plain, scales=(1, 2)).predict([array])
        assert model.seen == [(20, 50)] * looks + [(40, 100)] * looks
        assert found.pred_boxes.tensor[0].tolist() == [20, 10, 60, 30]


@pytest.mark.parametrize(
    "name, mirrored", [("co_dino/co_dino_r50_5scale_12ep", True), (DIGITS, False)]
)
def test_evaluation_gets_whole_pictures_and_mirrors_what_was_trained_so(name, mirrored):
    cfg = model_zoo.get_config(name)
    tested = cfg.dataloader.test.mapper.augmentations
    expected = (800, 1333) if tested else (None, None)
    model = augment_evaluation(BrightestSpot(), cfg)
    assert cfg.dataloader.test.mapper.augmentations == []
    assert (model.short_edge_length, model.max_size) == expected
    assert model.flip is mirrored
