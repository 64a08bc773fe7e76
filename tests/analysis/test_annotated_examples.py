"""Pictures as the evaluation reads them, with their objects in the frame of the model input."""

import json

import pytest
import tiny_dataset
import torch
from detectron2.config import LazyCall as L
from detectron2.structures import BoxMode

from co_detr import model_zoo
from co_detr.analysis.command import build_parser
from co_detr.analysis.examples import annotated_loader, crowd_boxes, rgb
from co_detr.data import ResizeShortestEdge


@pytest.fixture
def cfg(tmp_path):
    """Two pictures of 40x60 and 60x40 pixels, tested at twice the size; a box each."""
    cfg = model_zoo.get_config("co_deformable_detr/co_deformable_detr_digits")
    tiny_dataset.use(cfg, tiny_dataset.register(tmp_path, 10, lvis=False))
    cfg.dataloader.test.mapper.augmentations = [
        L(ResizeShortestEdge)(short_edge_length=80, max_size=200)
    ]
    return cfg


def test_objects_are_in_pixels_of_the_input(cfg):
    (wide,), (high,) = annotated_loader(cfg)
    assert (wide["image"].shape, high["image"].shape) == ((3, 80, 120), (3, 120, 80))
    for example, label in ((wide, 0), (high, 9)):
        assert example["instances"].gt_boxes.tensor.tolist() == [[20, 20, 60, 60]]
        assert example["instances"].gt_classes.tolist() == [label]
        assert example["crowd_boxes"].shape == (0, 4)
        assert not example["instances"].has("gt_masks")


def test_models_trained_on_masks_get_masks(cfg):
    cfg.dataloader.train.mapper.use_instance_mask = True
    ((example,),) = annotated_loader(cfg, images=1)
    assert len(example["instances"].gt_masks) == 1


def test_the_evaluations_config_stays_as_it_is(cfg):
    annotated_loader(cfg)
    assert cfg.dataloader.test.mapper.is_train is False


def test_pictures_by_number_and_by_id(cfg):
    def ids(**selection):
        return [example["image_id"] for (example,) in annotated_loader(cfg, **selection)]

    assert ids(images=1) == [1]
    assert ids(image_ids=[2, 1]) == [2, 1]
    assert ids(image_ids=["2", "1"]) == [2, 1]  # as a command line has them
    with pytest.raises(ValueError, match=r"no image of the id 7 \(it has 1, 2\)"):
        annotated_loader(cfg, image_ids=[1, 7])


def test_pictures_by_ids_that_are_texts(cfg, tmp_path):
    """Of which "007" spells a number that is the id of none."""
    file = tmp_path / "instances.json"
    content = json.loads(file.read_text())
    for image, annotation, name in zip(content["images"], content["annotations"], ("a", "007")):
        image["id"] = annotation["image_id"] = name
    file.write_text(json.dumps(content))
    args = build_parser().parse_args(["score-maps", "--image-ids", "007", "a"])
    loader = annotated_loader(cfg, image_ids=args.image_ids)
    assert [example["image_id"] for (example,) in loader] == ["007", "a"]


def test_crowd_regions_alone_are_scaled_to_the_input():
    annotation = {"bbox": [10, 10, 20, 5], "bbox_mode": BoxMode.XYWH_ABS}
    record = {"height": 40, "width": 60, "annotations": [annotation, annotation | {"iscrowd": 1}]}
    assert crowd_boxes(record, (80, 180)).tolist() == [[30, 20, 90, 30]]


def test_colours_as_a_person_sees_them():
    example = {"image": torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)}
    assert rgb(example, "RGB").tolist() == [[[1, 2, 3]]]
    assert rgb(example, "BGR").tolist() == [[[3, 2, 1]]]
