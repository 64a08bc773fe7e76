"""The data blocks of the configs."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from co_detr.evaluation.evaluators import LVISEvaluator

CONFIGS = Path(__file__).parents[2] / "configs" / "common" / "data"


@pytest.fixture
def coco():
    return LazyConfig.load(str(CONFIGS / "coco_detr.py")).dataloader


def test_training_and_test_blocks_load_a_dataset(coco, tiny):
    name = tiny.register()
    coco.train.dataset.names = coco.test.dataset.names = name
    coco.train.total_batch_size = 2
    coco.train.num_workers = coco.test.num_workers = 0
    batch = next(iter(instantiate(coco.train)))
    assert len(batch) == 2
    assert min(batch[0]["image"].shape[1:]) >= 480
    examples = [batch[0] for batch in instantiate(coco.test)]
    assert [e["image_id"] for e in examples] == [1, 2, 3, 4]
    assert [tuple(e["image"].shape) for e in examples[:2]] == [(3, 800, 1200), (3, 1200, 800)]
    assert instantiate(coco.evaluator)._metadata.name == name


@pytest.mark.parametrize("length", [0, 500])
def test_a_broken_picture_is_named_and_left_out_when_a_model_is_tested(coco, tiny, length, caplog):
    (tiny.root / "3.png").write_bytes((tiny.root / "3.png").read_bytes()[:length])
    coco.test.dataset.names = tiny.register()
    coco.test.num_workers = 0
    assert [batch[0]["image_id"] for batch in instantiate(coco.test)] == [1, 2, 4]
    assert re.search("unreadable: .*3.png: .*; left out", caplog.text)


def test_the_model_must_predict_the_classes_of_the_dataset(coco, tiny):
    coco.train.dataset.names = coco.test.dataset.names = tiny.register()
    cfg = OmegaConf.create({"model": {"num_classes": 80}, "dataloader": coco})
    for block in (cfg.dataloader.train, cfg.dataloader.test):
        with pytest.raises(ValueError, match="model.num_classes=2"):
            instantiate(block)
    cfg.model.num_classes = 2
    assert len(instantiate(cfg.dataloader.train.dataset)) == 4


def test_the_order_of_the_data_follows_the_training_seed(coco, tiny):
    coco.train.dataset.names = tiny.register()
    coco.train.num_workers = 0
    cfg = OmegaConf.create({"train": {"seed": 5}, "dataloader": coco})
    assert instantiate(cfg.dataloader.train).dataset.seed == 5


def test_digits_are_used_as_they_are():
    dataloader = LazyConfig.load(str(CONFIGS / "digits.py")).dataloader
    assert dataloader.train.dataset.names == "digits_train"
    assert dataloader.test.dataset.names == dataloader.evaluator.dataset_name == "digits_val"
    assert dataloader.train.mapper.augmentations == dataloader.test.mapper.augmentations == []
    assert dataloader.train.mapper.image_format == dataloader.test.mapper.image_format == "RGB"


def _load(name):
    return LazyConfig.load(str(CONFIGS / f"{name}.py")).dataloader


def test_large_scale_jittering_gives_examples_of_the_canvas(tiny):
    for annotation in tiny.content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    dataloader = _load("coco_lsj")
    dataloader.train.dataset.names = dataloader.test.dataset.names = tiny.register()
    dataloader.train.update(total_batch_size=3, num_workers=0)
    dataloader.test.num_workers = 0
    dataloader.train.mapper.augmentations.canvas = 96
    loader = instantiate(dataloader.train)
    assert loader.dataset.mix.max_objects == 100
    for example in next(iter(loader)):
        assert tuple(example["image"].shape) == (3, 96, 96)
        assert example["image"].dtype == torch.uint8
        assert not example["instances"].has("gt_masks")
    # 40 x 60 and 60 x 40: they fit the same canvas; the model pads
    shapes = [tuple(batch[0]["image"].shape) for batch in instantiate(dataloader.test)]
    assert shapes[:2] == [(3, 64, 96), (3, 96, 64)]


def test_large_models_train_and_test_at_larger_sizes():
    dataloader = _load("coco_detr_large")
    sizes = dataloader.train.mapper.augmentations.short_sides
    assert (sizes[0], sizes[1], sizes[-1], len(sizes)) == (480, 512, 1536, 34)
    assert dataloader.train.mapper.augmentations.max_size == 2048
    test = instantiate(dataloader.test.mapper).augmentations.augs[0]
    assert (tuple(test.short_edge_length), test.max_size) == ((1280, 1280), 2048)


@pytest.mark.parametrize("name", ["lvis_detr", "lvis_lsj"])
def test_lvis_blocks_repeat_rare_categories_and_use_their_evaluator(name):
    dataloader = _load(name)
    assert dataloader.train.dataset.names == "lvis_v1_train"
    assert dataloader.evaluator.dataset_name == dataloader.test.dataset.names == "lvis_v1_val"
    assert dataloader.evaluator._target_ is LVISEvaluator
    assert dataloader.evaluator.max_dets_per_image == 300
    assert dataloader.train.repeat_threshold == 0.001
    assert ("mix" in dataloader.train) == (name == "lvis_lsj")


def test_objects365_has_boxes_only(tiny):
    dataloader = _load("objects365_lsj")
    assert dataloader.train.dataset.names == "objects365_v2_train"
    dataloader.train.dataset.names = tiny.register()  # it has no masks either
    dataloader.train.update(total_batch_size=4, num_workers=0)
    assert dataloader.train.mapper.augmentations.canvas == 1536
    dataloader.train.mapper.augmentations.canvas = 64
    loader = instantiate(dataloader.train)
    assert loader.dataset.mix is None
    assert {tuple(example["image"].shape) for example in next(iter(loader))} == {(3, 64, 64)}


def test_lvis_digits_model_samples_half_of_the_classes():
    path = CONFIGS.parents[1] / "co_deformable_detr" / "co_deformable_detr_digits_lvis.py"
    cfg = LazyConfig.load(str(path))
    federated = instantiate(cfg.model.criterion.federated)
    assert (federated.num_classes, federated.num_sampled) == (10, 5)
    assert federated.dataset == cfg.dataloader.train.dataset.names == "digits_lvis_train"
    assert cfg.dataloader.evaluator.dataset_name == "digits_lvis_val"
