"""What code that people have written for detectron2 relies on beyond the documented examples."""

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import get_norm, nms
from detectron2.modeling import detector_postprocess
from detectron2.solver import build_optimizer, get_default_optimizer_params
from detectron2.structures import Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from PIL import Image
from torch import nn


class Plain:
    @configurable
    def __init__(self, width, *, depth=1, name="plain"):
        self.values = width, depth, name

    @classmethod
    def from_config(cls, cfg, depth=2):
        return {"width": cfg.WIDTH, "depth": depth}


class Wider(Plain):
    @classmethod
    def from_config(cls, cfg, depth=2):
        return {**super().from_config(cfg, depth), "width": 10 * cfg.WIDTH}


@configurable(from_config=lambda cfg, depth=2: {"width": cfg.WIDTH, "depth": depth})
def build(width, depth=1, name="built"):
    return width, depth, name


CFG = CfgNode({"WIDTH": 4})


def test_configurable_takes_a_config_or_arguments():
    assert Plain(4).values == (4, 1, "plain")
    assert Plain(CFG).values == Plain(cfg=CFG).values == (4, 2, "plain")
    assert Plain(CFG, 3, name="mine").values == (4, 3, "mine")
    assert Plain(CFG, width=5).values == (5, 2, "plain")
    assert Wider(CFG).values == (40, 2, "plain")
    assert build(4) == (4, 1, "built")
    assert (
        build(CFG, name="mine")
        == build(OmegaConf.create({"WIDTH": 4}), name="mine")
        == (4, 2, "mine")
    )
    assert build.from_config(CFG) == {"width": 4, "depth": 2}


def test_configurable_needs_a_class_method_that_begins_with_cfg():
    class Without:
        @configurable
        def __init__(self, width):
            pass

    class NoClassMethod(Without):
        def from_config(self, cfg):
            return {}

    class OtherName(Without):
        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Without(CFG)
    with pytest.raises(TypeError, match="from_config"):
        NoClassMethod(CFG)
    with pytest.raises(TypeError, match="cfg"):
        OtherName(CFG)


def test_mappers_of_ones_own_change_what_a_config_means():
    class Mine(DatasetMapper):
        @classmethod
        def from_config(cls, cfg, is_train=True):
            arguments = super().from_config(cfg, is_train)
            arguments["augmentations"] = [T.RandomFlip(0.25)]
            return arguments

    mapper = Mine(get_cfg(), True)
    assert mapper.is_train and mapper.image_format == "BGR"
    (only,) = mapper.augmentations.augs
    assert only.prob == 0.25


def test_the_sampler_of_a_config_holds_for_given_records_too():
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    records = [{"annotations": [{"category_id": c}]} for c in (0, 0, 0, 1)]
    loader = build_detection_train_loader(cfg, mapper=lambda r: r, dataset=records)
    assert isinstance(loader.sampler, RepeatFactorTrainingSampler)
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_detection_train_loader(cfg, mapper=lambda r: r, dataset=records)


@pytest.mark.parametrize("serialize", [True, False])
def test_lists_count_from_the_end(serialize):
    items = DatasetFromList([10, 11, 12], serialize=serialize)
    assert [items[-1], items[-2], items[np.int64(0)]] == [12, 11, 10]
    with pytest.raises(IndexError):
        items[3]


def test_nms_is_torchvision_s():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]


@pytest.mark.parametrize("before_forward", [False, True])
def test_hooks_see_the_gradients_after_the_backward_pass(before_forward):
    model = nn.Linear(1, 1, bias=False)
    model.forward = lambda x: {"loss": model.weight.sum() * x}
    seen = []

    class Look(HookBase):
        def after_backward(self):
            seen.append((self.trainer.iter, model.weight.grad.item()))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, [2.0, 3.0], optimizer, zero_grad_before_forward=before_forward)
    trainer.register_hooks([Look()])
    trainer.train(0, 2)
    assert seen == [(0, 2.0), (1, 3.0)]


def test_trainers_gather_metrics_as_often_as_they_are_told():
    model = nn.Linear(1, 1, bias=False)
    model.forward = lambda x: {"loss": model.weight.sum() * 0 + x}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, [1.0, 2.0, 3.0, 4.0], optimizer, gather_metric_period=2)
    trainer.train(0, 4)
    assert trainer.storage.history("total_loss").values() == [(2.0, 1), (4.0, 3)]
    trainer = AMPTrainer(model, [1.0], optimizer, 5, True, torch.amp.GradScaler("cpu"))
    assert (trainer.gather_metric_period, trainer.zero_grad_before_forward) == (5, True)


def test_a_trainer_goes_on_with_another_loader():
    model = nn.Linear(1, 1, bias=False)
    model.forward = lambda x: {"loss": model.weight.sum() * 0 + x}
    trainer = SimpleTrainer(model, [1.0], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: [7.0])
    trainer.train(1, 2)
    assert trainer.storage.latest()["total_loss"] == (7.0, 1)


def test_augmentations_may_name_their_input_apart_from_their_parameters():
    class ByBoxes(T.Augmentation):
        input_args = ("boxes", "image")

        def get_transform(self, *args):
            self.shapes = [a.shape for a in args]
            return T.NoOpTransform()

    augmentation = ByBoxes()
    augmentation(T.AugInput(np.zeros((4, 6, 3), np.uint8), boxes=np.zeros((2, 4))))
    assert augmentation.shapes == [(2, 4), (4, 6, 3)]


def test_maps_normed_by_ln_count_as_no_norm_for_the_weight_decay():
    model = nn.Sequential(nn.LayerNorm(4), get_norm("LN", 4))
    groups = get_default_optimizer_params(model, weight_decay=0.1, weight_decay_norm=0.0)
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert [decays[id(m.weight)] for m in model] == [0.0, 0.1]
    x = torch.randn(2, 4, 3, 5)
    expected = nn.functional.layer_norm(x.permute(0, 2, 3, 1), (4,), eps=1e-6)
    torch.testing.assert_close(model[1](x), expected.permute(0, 3, 1, 2))
    assert sorted(model[1].state_dict()) == ["bias", "weight"]


def test_build_optimizer_groups_parameters_as_its_states_were_saved():
    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY_NORM = 0.1
    optimizer = build_optimizer(cfg, nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


def test_polygons_are_copied():
    mine = np.array([0.0, 0, 4, 0, 4, 4])
    masks = PolygonMasks([[mine]])
    masks.polygons[0][0] += 1
    assert mine.tolist() == [0, 0, 4, 0, 4, 4]


def test_keypoints_of_detections_are_rescaled():
    found = Instances((10, 20), pred_boxes=Boxes(torch.tensor([[0.0, 0, 4, 4]])))
    found.pred_keypoints = torch.tensor([[[2.0, 3, 0.5]]])
    scaled = detector_postprocess(found, 20, 60)
    assert scaled.pred_keypoints.tolist() == [[[6, 6, 0.5]]]


def test_default_options_of_functions_are_accepted_in_upstream_s_order():
    DatasetCatalog.register("user_code_options", lambda: [{"file_name": "a"}])
    try:
        assert len(get_detection_dataset_dicts(["user_code_options"], False, 0, None)) == 1
    finally:
        DatasetCatalog.remove("user_code_options")
    annotation = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS}
    moved = utils.transform_instance_annotations(
        annotation, T.HFlipTransform(10), (8, 10), keypoint_hflip_indices=None
    )
    assert moved["bbox"].tolist() == [7, 2, 9, 4]
    mapper = DatasetMapper(
        True,
        augmentations=[],
        image_format="RGB",
        use_keypoint=False,
        keypoint_hflip_indices=None,
        precomputed_proposal_topk=None,
    )
    assert mapper.use_keypoint is False


def test_labels_of_pixels_are_read_and_transformed(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    arguments = {"augmentations": [T.HFlipTransform(6)], "image_format": "RGB"}
    for is_train in (True, False):
        example = DatasetMapper(is_train, **arguments)(record)
        assert example["sem_seg"].dtype == torch.int64
        assert example["sem_seg"].tolist() == labels[:, ::-1].tolist()


def test_annotations_to_be_ignored_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a", "height": 9, "width": 9}], "categories": '
        '[{"id": 1, "name": "a"}], "annotations": [{"id": 7, "image_id": 1, "category_id": 1, '
        '"bbox": [1, 1, 3, 3], "iscrowd": 0, "area": 9, "ignore": 1}]}'
    )
    with pytest.raises((AssertionError, ValueError), match="ignore"):
        load_coco_json(str(tmp_path / "a.json"), str(tmp_path))


def test_names_are_matched_where_the_path_of_a_checkpoint_asks_for_it(tmp_path):
    torch.save({"model": {"1.weight": torch.full((1, 1), 5.0)}}, tmp_path / "w.pth")
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(1, 1, bias=False)))
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(f"{tmp_path}/w.pth?matching_heuristics=True")
    assert model[0][1].weight.item() == 5
    model[0][1].weight.data.zero_()
    checkpointer.load(f"{tmp_path}/w.pth")
    assert model[0][1].weight.item() == 0
    with pytest.raises(ValueError, match="tea=milk"):
        checkpointer.load(f"{tmp_path}/w.pth?tea=milk")


def test_pictures_of_a_model_wait_in_the_storage():
    with EventStorage(3) as storage:
        storage.put_image("seen", torch.zeros(3, 2, 2, dtype=torch.uint8))
    ((name, picture, iteration),) = storage._vis_data
    assert (name, picture.shape, iteration) == ("seen", (3, 2, 2), 3)
    storage.clear_images()
    assert len(storage._vis_data) == 0


@pytest.fixture
def of_a_function():
    """A dataset of records without an annotation file, and its name."""
    name = "user_code_records"
    square = [2.0, 2, 8, 2, 8, 8, 2, 8]
    annotations = [
        {"bbox": [2, 2, 8, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
        {"bbox": [2, 2, 6, 6], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
        | {"segmentation": [square[:6]]},
    ]
    record = {"file_name": "a.png", "height": 10, "width": 12, "image_id": 4}
    DatasetCatalog.register(name, lambda: [{**record, "annotations": annotations}])
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_records_of_a_function_become_an_annotation_file(of_a_function):
    content = convert_to_coco_dict(of_a_function)
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    (image,) = content["images"]
    assert (image["id"], image["height"], image["width"]) == (4, 10, 12)
    dog, cat = content["annotations"]
    assert (dog["category_id"], dog["bbox"], dog["area"]) == (1, [2, 2, 6, 6], 36)
    assert (cat["category_id"], cat["bbox"], cat["area"]) == (0, [2, 2, 6, 6], 18)
    assert cat["segmentation"] == [[2, 2, 8, 2, 8, 8]] and cat["image_id"] == 4


def test_datasets_of_a_function_are_evaluated_by_their_records(of_a_function, tmp_path):
    evaluator = COCOEvaluator(of_a_function, ("bbox",), False, str(tmp_path))
    evaluator.reset()
    found = Instances((10, 12), pred_boxes=Boxes(torch.tensor([[2.0, 2, 8, 8], [0, 0, 1, 1]])))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
    evaluator.process([{"image_id": 4}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert (results["AP-dog"], results["AP-cat"]) == pytest.approx((100, 0))


def test_a_config_in_the_place_of_tasks_means_all_of_them(of_a_function, tmp_path):
    evaluator = COCOEvaluator(of_a_function, get_cfg(), False, str(tmp_path))
    evaluator.reset()
    found = Instances((10, 12), pred_boxes=Boxes(torch.tensor([[2.0, 2, 8, 8]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([1])
    evaluator.process([{"image_id": 4}], [{"instances": found}])
    assert list(evaluator.evaluate()) == ["bbox"]
