"""What checkpoints say of their model, so that it can be used without its config."""

import json
import logging
import threading

import pytest
import tiny_dataset
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from co_detr import __version__, detectron2_origin, load_detector, model_zoo
from co_detr.checkpoint.class_names import named_categories
from co_detr.checkpoint.model_card import (
    MODEL_CARD,
    ModelCard,
    card_of,
    describe,
    model_text,
)
from co_detr.checkpoint.model_card import test_resize as resize_of
from co_detr.checkpoint.reading import read_checkpoint
from co_detr.checkpoint.safe_config import read_model_config
from co_detr.engine.checkpoint import WholeFileCheckpointer


@pytest.fixture
def cfg(tmp_path):
    """A config for two classes with the ids 1 and 2."""
    cfg = model_zoo.get_config("co_deformable_detr/co_deformable_detr_digits")
    tiny_dataset.use(cfg, tiny_dataset.register(tmp_path / "data", 2, lvis=False))
    cfg.model.num_classes = 2
    return cfg


def saved(model, folder, card=None):
    model.model_card = card
    WholeFileCheckpointer(model, str(folder)).save("model", iteration=3)
    return folder / "model.pth"


def test_a_card_describes_model_classes_pictures_and_origin(cfg):
    cfg.dataloader.test.mapper.augmentations = [
        L(T.RandomFlip)(),
        L(T.ResizeShortestEdge)(short_edge_length=[640, 480], max_size=900),
    ]
    cfg.model.image_format = "BGR"
    card = describe(cfg)
    assert card.config == model_text(cfg.model) and card.no_config == ""
    assert card.categories == [{"id": 1, "name": "class 1"}, {"id": 2, "name": "class 2"}]
    assert (card.image_format, card.min_size, card.max_size) == ("BGR", 480, 900)
    assert card.co_detr == __version__
    # the folder that detectron2 lies in is left out: checkpoints travel
    assert card.detectron2 and "(" not in card.detectron2
    assert detectron2_origin().startswith(card.detectron2)


@pytest.mark.parametrize(
    "augmentations, expected",
    [
        (None, (None, None)),
        ([], (0, 0)),
        ([L(T.RandomFlip)()], (0, 0)),
        (L(T.AugmentationList)(augs=[L(T.ResizeShortestEdge)(short_edge_length=40)]), (40, 2**63)),
    ],
)
def test_the_size_of_pictures_is_that_of_the_test(augmentations, expected):
    mapper = {} if augmentations is None else {"augmentations": augmentations}
    cfg = {"dataloader": {"test": {"mapper": mapper}}}
    least, most = resize_of(OmegaConf.create(cfg, flags={"allow_objects": True}))
    assert least == expected[0] and (most is None or most <= expected[1])
    assert resize_of(OmegaConf.create({"model": {}})) == (None, None)


def test_the_canvas_of_another_section_is_written_as_a_number():
    cfg = model_zoo.get_config("co_dino/co_dino_r50_5scale_lsj_12ep_lvis")
    cfg.dataloader.train.mapper.augmentations.canvas = 640
    card = describe(cfg)
    read = read_model_config(card.config, "x")
    assert read.canvas == card.min_size == card.max_size == 640
    assert "${dataloader" not in card.config and "${..num_classes}" in card.config


def test_classes_of_another_number_than_the_models_are_left_out(cfg):
    cfg.model.num_classes = 5
    assert describe(cfg).categories == []
    assert describe(cfg, [{"id": i, "name": str(i)} for i in range(5)]).categories[4] == {
        "id": 4,
        "name": "4",
    }


def test_new_names_take_the_ids_of_the_dataset_where_it_knows_all_of_them():
    known = [{"id": 3, "name": "Traffic light"}, {"id": 7, "name": "dog"}]
    ids = lambda names, known: [c["id"] for c in named_categories(names, known)]  # noqa: E731
    assert ids(["dog", "traffic_light"], known) == [7, 3]
    assert ids(["dog", "cow"], known) == [0, 1]
    assert ids(["dog"], None) == [0]


def test_a_checkpoint_with_a_card_is_read_by_detectron2_and_without_unpickling(cfg, tmp_path):
    model, card = nn.Linear(2, 3), describe(cfg)
    path = saved(model, tmp_path, card)
    content = torch.load(path, weights_only=True)
    assert content["iteration"] == 3 and content[MODEL_CARD] == card.to_dict()
    target = nn.Linear(2, 3)
    DetectionCheckpointer(target).load(str(path))
    assert torch.equal(target.weight, model.weight)
    assert card_of(read_checkpoint(path)) == card
    # resumed, it goes on as before
    resumed = WholeFileCheckpointer(nn.Linear(2, 3), str(tmp_path))
    assert resumed.resume_or_load("", resume=True)["iteration"] == 3


def test_the_card_lies_in_the_metadata_of_safetensors(cfg, tmp_path):
    card = describe(cfg)
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", card.to_metadata())
    assert card_of(read_checkpoint(tmp_path / "a.safetensors")) == card
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors", {MODEL_CARD: "{no json"})
    assert card_of(read_checkpoint(tmp_path / "b.safetensors")) is None


def test_without_a_card_nothing_is_written(tmp_path):
    path = saved(nn.Linear(2, 3), tmp_path)
    assert torch.load(path, weights_only=True).keys() == {"model", "iteration"}
    assert card_of(read_checkpoint(path)) is None


def test_a_config_that_is_no_text_is_missing_for_a_reason_and_training_saves(cfg, tmp_path, caplog):
    cfg.model._set_flag("allow_objects", True)
    cfg.model.lock = threading.Lock()
    with caplog.at_level(logging.WARNING):
        card = describe(cfg)
    assert "lock=<unlocked" in card.no_config and card.config == ""
    assert "need --config-file" in caplog.text and "lock=<unlocked" in caplog.text
    assert len(card.categories) == 2
    path = saved(nn.Linear(2, 3), tmp_path, card)
    with pytest.raises(ValueError, match=r"could not take one along \(lock=<unlocked.*--config-f"):
        load_detector(path)


def test_an_interpolation_that_leads_nowhere_is_a_reason_too(cfg):
    cfg.model.canvas = "${elsewhere.canvas}"
    assert "elsewhere" in describe(cfg).no_config


def test_functions_that_a_config_file_names_are_written(cfg):
    cfg.model._set_flag("allow_objects", True)
    cfg.model.norm, cfg.model.function = nn.LayerNorm, json.dumps
    card = describe(cfg)
    assert card.no_config == "" and "name: json.dumps" in card.config


def test_own_modules_are_written_and_the_log_says_what_they_need(cfg, caplog):
    cfg.model.extra = {"_target_": "birds.Head"}
    with caplog.at_level(logging.INFO):
        card = describe(cfg)
    assert "_target_: birds.Head" in card.config and card.no_config == ""
    assert "need --config-file to be used: the model names 'birds.Head' in model.extra" in (
        caplog.text
    )


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"config": 3}, "config is 3"),
        ({"min_size": "800"}, "min_size is '800'"),
        ({"max_size": -1}, "max_size is -1"),
        ({"image_format": "XYZ"}, "image_format is 'XYZ'"),
        ({"categories": {"a": 1}}, "categories are dict"),
        ({"categories": ["cat"]}, "a category is 'cat'"),
        ({"categories": [{"id": 1}]}, "name"),
        ({"categories": [{"id": "1", "name": "a"}]}, "the id of the category"),
    ],
)
def test_cards_of_another_form_are_refused(changes, match, tmp_path):
    card = ModelCard(config="_target_: torch.nn.Identity").to_dict() | changes
    torch.save({"model": {"a": torch.ones(1)}, MODEL_CARD: card}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth: its model_card.*{match}.*--config-file"):
        card_of(read_checkpoint(tmp_path / "a.pth"))


@pytest.mark.parametrize("card", ["text", 3, ["config"], None, {}, {"unknown": 1}])
def test_a_card_of_a_later_version_or_of_something_else(card, tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, MODEL_CARD: card}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    if isinstance(card, dict):
        assert card_of(checkpoint) == ModelCard()
    elif card is None:
        assert card_of(checkpoint) is None
    else:
        with pytest.raises(ValueError, match="model_card cannot be read"):
            card_of(checkpoint)


def test_the_names_of_digits_are_those_of_its_metadata():
    cfg = model_zoo.get_config("co_dino/co_dino_digits")
    names = MetadataCatalog.get("digits_train").get("thing_classes")
    if names is not None:
        assert [c["name"] for c in describe(cfg).categories] == list(names)
    assert instantiate(read_model_config(describe(cfg).config, "x")).num_classes == 10
