"""The data blocks of the configs."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

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
