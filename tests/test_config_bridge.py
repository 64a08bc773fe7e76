"""A lazy config behind detectron2's `DefaultPredictor` and `DefaultTrainer`."""

import functools
import json

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from golden import CONFIGS, co_deformable_detr_config
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from co_detr import model_zoo
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.checkpoint.model_card import card_of, model_text
from co_detr.checkpoint.reading import DamagedCheckpointError, read_checkpoint
from co_detr.config import (
    LazyConfigTrainer,
    add_co_detr_config,
    to_cfg_node,
    to_lazy_config,
)

OBJECTS = {"allow_objects": True}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four registered pictures of 64x96 with a box each, the last one without."""
    root = tmp_path_factory.mktemp("bridge")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    content = {
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(7)],
        "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": i + 1, "bbox": [8 * i + 4, 10, 40, 30]}
            | {"area": 1200, "iscrowd": 0}
            for i in range(3)
        ],
    }
    (root / "instances.json").write_text(json.dumps(content))
    register_coco_instances("bridge_pictures", {}, str(root / "instances.json"), str(root))
    yield "bridge_pictures"
    DatasetCatalog.remove("bridge_pictures")
    MetadataCatalog.remove("bridge_pictures")


@pytest.fixture
def lazy_cfg(tmp_path, dataset):
    """A complete config of the shrunken model."""
    cfg = OmegaConf.create({}, flags={"allow_objects": True})
    cfg.model = co_deformable_detr_config()
    cfg.dataloader = LazyConfig.load(str(CONFIGS / "common/data/coco_detr.py")).dataloader
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = dataset
    cfg.dataloader.train.mapper.augmentations = []
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 80
    cfg.dataloader.test.mapper.augmentations[0].max_size = 100
    optim = LazyConfig.load(str(CONFIGS / "common/optim.py"))
    cfg.optimizer = optim.AdamW
    cfg.optimizer.lr = 1e-3
    cfg.train = LazyConfig.load(str(CONFIGS / "common/train.py")).train
    cfg.train.device = "cpu"
    cfg.train.output_dir = str(tmp_path / "run")
    cfg.train.max_iter = 2
    schedule = LazyConfig.load(str(CONFIGS / "common/schedule.py"), "step_schedule")
    cfg.lr_multiplier = schedule(epochs=2, drops=[1], iterations_per_epoch=1)
    return cfg


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of random weights that detect something."""
    torch.manual_seed(0)
    model = instantiate(co_deformable_detr_config())
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def test_predictor_detects_what_the_model_detects(lazy_cfg, weights):
    bgr = np.random.default_rng(5).integers(0, 256, (60, 90, 3), np.uint8)
    found = DefaultPredictor(to_cfg_node(lazy_cfg, weights=weights))(bgr)["instances"]

    model = instantiate(lazy_cfg.model).eval()
    DetectionCheckpointer(model).load(weights)
    # the shorter side wants 80, but the longer one may not exceed 100
    resized = Image.fromarray(bgr[:, :, ::-1]).resize((100, 67), Image.BILINEAR)
    image = torch.from_numpy(np.array(resized).transpose(2, 0, 1)).float()
    with torch.no_grad():
        want = model([{"image": image, "height": 60, "width": 90}])[0]["instances"]
    assert len(found) == 20 and found.image_size == (60, 90)
    assert torch.equal(found.pred_classes, want.pred_classes)
    torch.testing.assert_close(found.scores, want.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, want.pred_boxes.tensor)


def test_predictor_refuses_weights_that_do_not_fit(lazy_cfg, weights, tmp_path):
    state = torch.load(weights)["model"]
    del state["encoder.level_embed"]
    torch.save({"model": state}, tmp_path / "lacking.pth")
    with pytest.raises(UnfittingCheckpointError, match=r"it \(1\): encoder\.level_embed"):
        DefaultPredictor(to_cfg_node(lazy_cfg, weights=str(tmp_path / "lacking.pth")))
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(DamagedCheckpointError, match="web page"):
        DefaultPredictor(to_cfg_node(lazy_cfg, weights=str(tmp_path / "page.pth")))
    # a training may start from them
    build_model(to_cfg_node(lazy_cfg, weights=weights)).load_state_dict(state, strict=False)


def test_predictor_looks_through_wrappers(lazy_cfg, weights, tmp_path):
    state = {f"_orig_mod.{n}": t for n, t in torch.load(weights)["model"].items()}
    torch.save({"model": state}, tmp_path / "compiled.pth")
    predictor = DefaultPredictor(to_cfg_node(lazy_cfg, weights=str(tmp_path / "compiled.pth")))
    found = predictor.model.state_dict()["encoder.level_embed"]
    assert torch.equal(found, state["_orig_mod.encoder.level_embed"])


def test_predictor_and_model_say_what_is_wrong_with_a_picture(lazy_cfg, weights):
    predictor = DefaultPredictor(to_cfg_node(lazy_cfg, weights=weights))
    picture = np.random.default_rng(5).integers(0, 256, (60, 90, 3), np.uint8)
    for wrong in (picture / 255, picture.transpose(2, 0, 1), picture[:, :, 0]):
        with pytest.raises(ValueError, match="the picture is a numpy.ndarray"):
            predictor(wrong)
    assert len(predictor(picture.astype(np.float32))["instances"]) == 20
    with torch.no_grad(), pytest.raises(ValueError, match=r'\["image"\] .*multiply by 255'):
        predictor.model([{"image": torch.as_tensor(picture.transpose(2, 0, 1) / 255)}])


def test_a_node_with_another_order_of_channels_is_refused(lazy_cfg, weights):
    cfg = to_cfg_node(lazy_cfg, weights=weights)
    assert cfg.INPUT.FORMAT == "RGB"
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'BGR', but the model is made for 'RGB'"):
        DefaultPredictor(cfg)

    lazy_cfg.model.image_format = "BGR"
    lazy_cfg.model.pixel_mean, lazy_cfg.model.pixel_std = [9.0, 5.0, 1.0], [1.0, 1.0, 1.0]
    predictor, seen = DefaultPredictor(to_cfg_node(lazy_cfg, weights=weights)), []
    predictor.model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    picture = np.full((80, 96, 3), (19, 15, 11), np.uint8)
    predictor(picture)
    assert seen[0][0, :, 0, 0].tolist() == [10, 10, 10]  # each channel met its own mean


def test_node_survives_dump_and_merge(lazy_cfg, tmp_path):
    cfg = to_cfg_node(lazy_cfg)
    (tmp_path / "node.yaml").write_text(cfg.dump())
    merged = get_cfg()
    add_co_detr_config(merged)
    merged.merge_from_file(str(tmp_path / "node.yaml"))
    merged.freeze()
    assert merged == cfg
    model = build_model(merged.clone())
    assert next(model.parameters()).device.type == "cpu"
    expected = instantiate(lazy_cfg.model).state_dict()
    state = model.state_dict()
    assert list(state) == list(expected)  # in this order, as optimizer states want it
    assert all(state[name].shape == expected[name].shape for name in expected)


def test_interpolations_stay_alive(lazy_cfg):
    restored = to_lazy_config(to_cfg_node(lazy_cfg))
    restored.model.num_classes = 3
    assert instantiate(restored.model).criterion.num_classes == 3
    assert restored.dataloader.train.dataset.num_classes == 3


def test_shared_keys_are_filled_and_can_be_changed(lazy_cfg, dataset):
    lazy_cfg.train.eval_period = 7
    cfg = to_cfg_node(lazy_cfg, device="meta")
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.TEST.EVAL_PERIOD) == (1e-3, 2, 7)
    assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == (dataset,)
    assert (cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == ("RGB", 80, 100)
    assert cfg.MODEL.DEVICE == "meta"

    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = 0.5, 11
    cfg.DATASETS.TRAIN = ("one", "two")
    changed = to_lazy_config(cfg)
    assert (changed.optimizer.lr, changed.train.max_iter) == (0.5, 11)
    assert changed.optimizer.params.base_lr == 0.5  # points to lr
    assert changed.dataloader.train.dataset.names == ["one", "two"]
    assert changed.dataloader.test.dataset.names == dataset


def test_augmentation_schedule_and_clipping_as_nodes_say_them(lazy_cfg):
    train = LazyConfig.load(str(CONFIGS / "common/data/coco_detr.py")).dataloader.train
    lazy_cfg.dataloader.train.mapper.augmentations = train.mapper.augmentations
    lazy_cfg.train.max_iter = 24
    schedule = LazyConfig.load(str(CONFIGS / "common/schedule.py"), "step_schedule")
    lazy_cfg.lr_multiplier = schedule(epochs=12, drops=[11], iterations_per_epoch=1, warmup=1)
    cfg = to_cfg_node(lazy_cfg)
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(range(480, 801, 32))
    assert (cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.MAX_SIZE_TRAIN) == ("choice", 1333)
    assert cfg.INPUT.RANDOM_FLIP == "horizontal"
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS) == ((22,), 2)
    assert cfg.SOLVER.GAMMA == pytest.approx(0.1)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (True, "norm", 0.1, 2)


def test_without_test_augmentation_images_keep_their_size(lazy_cfg, weights):
    lazy_cfg.dataloader.test.mapper.augmentations = []
    cfg = to_cfg_node(lazy_cfg, weights=weights)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.RANDOM_FLIP) == (0, "none")
    predictor, sizes = DefaultPredictor(cfg), []
    predictor.model.register_forward_pre_hook(lambda _m, x: sizes.append(x[0][0]["image"].shape))
    predictor(np.zeros((40, 50, 3), np.uint8))
    assert sizes == [(3, 40, 50)]


def test_what_the_predictor_cannot_do_is_said(lazy_cfg, caplog):
    lazy_cfg.dataloader.test.mapper.augmentations.append(L(T.RandomFlip)(prob=1.0))
    to_cfg_node(lazy_cfg)
    assert "DefaultPredictor will not do" in caplog.text and "RandomFlip" in caplog.text


def test_a_config_of_the_model_alone_is_enough_to_predict():
    cfg = to_cfg_node(OmegaConf.create({"model": co_deformable_detr_config()}), device="cpu")
    image = np.zeros((40, 50, 3), np.uint8)
    cfg.INPUT.MIN_SIZE_TEST = 64
    assert len(DefaultPredictor(cfg)(image)["instances"]) == 20


def test_functions_of_a_config_file_are_found_again(lazy_cfg, tmp_path):
    (tmp_path / "mine.py").write_text("def factor(name):\n    return 0.25\n")
    factor = LazyConfig.load(str(tmp_path / "mine.py"), "factor")
    lazy_cfg.optimizer.params.lr_factor_func = factor
    restored = to_lazy_config(to_cfg_node(lazy_cfg))
    restored.optimizer.params.model = nn.Linear(2, 2)
    assert instantiate(restored.optimizer).param_groups[0]["lr"] == pytest.approx(0.25e-3)


FUNCTIONS = """
import functools

def quarter(function):
    @functools.wraps(function)
    def call(name):
        return function(name) / 4
    return call

def factor(name):
    return 0.25

@quarter
def decorated(name):
    return 1

class Factor:
    rate = 0.25

    def __new__(cls, name):
        return cls.rate

class Bare(float):
    pass
"""


def as_ours(path):
    names = ("factor", "decorated", "Factor", "Bare")
    return dict(zip(names, LazyConfig.load(path, names)))


def as_upstream(path):
    """What upstream's `LazyConfig.load` makes of a file: functions without a module."""
    content = {"__file__": path, "__package__": "detectron2._cfg_loaderdbd4.functions.py"}
    with open(path) as file:
        exec(compile(file.read(), path, "exec"), content)
    assert content["factor"].__module__ is None
    return content


@pytest.mark.parametrize("load", [as_ours, as_upstream])
@pytest.mark.parametrize("folder", ["{here}/", "./", ""])
@pytest.mark.parametrize("name", ["factor", "decorated", "Factor"])
def test_what_a_config_file_defines_is_found_from_elsewhere(
    load, folder, name, tmp_path, monkeypatch
):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    value = load(folder.format(here=tmp_path) + "functions.py")[name]
    cfg = to_cfg_node(OmegaConf.create({"model": {"factor": value}}, flags=OBJECTS))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert instantiate(to_lazy_config(cfg).model.factor)("backbone") == 0.25


@pytest.mark.parametrize("load", [as_ours, as_upstream])
def test_a_class_of_a_config_file_without_methods_is_refused(load, tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    value = load(str(tmp_path / "functions.py"))["Bare"]
    lazy_cfg = OmegaConf.create({"model": {"factor": value}}, flags=OBJECTS)
    with pytest.raises(ValueError, match="model.factor.*a class with a method of its own"):
        to_cfg_node(lazy_cfg)


def decayed(name, *, rate):
    return rate**2


def test_partial_functions_are_put_together_again(lazy_cfg):
    lazy_cfg.optimizer.params.lr_factor_func = functools.partial(decayed, rate=0.5)
    restored = to_lazy_config(to_cfg_node(lazy_cfg))
    restored.optimizer.params.model = nn.Linear(2, 2)
    assert instantiate(restored.optimizer).param_groups[0]["lr"] == pytest.approx(0.25e-3)


@pytest.mark.parametrize("value", [lambda name: 1.0, torch.zeros(2)])
def test_what_is_no_text_is_named(lazy_cfg, value):
    lazy_cfg.optimizer.params.lr_factor_func = value
    with pytest.raises(ValueError, match="optimizer.params.lr_factor_func"):
        to_cfg_node(lazy_cfg)


def test_a_model_alone_or_a_plain_node_is_refused(lazy_cfg):
    with pytest.raises(KeyError, match="pass the whole config"):
        to_cfg_node(lazy_cfg.model)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "build_lazy_model"
    with pytest.raises(ValueError, match="to_cfg_node"):
        build_model(cfg)


def test_default_trainer_trains(lazy_cfg, tmp_path):
    cfg = to_cfg_node(lazy_cfg)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    trainer = DefaultTrainer(cfg)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.iter == 2
    after = dict(trainer.model.named_parameters())
    assert not torch.equal(
        before["decoder.class_branches.1.bias"], after["decoder.class_branches.1.bias"]
    )
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert torch.equal(saved["model"]["encoder.level_embed"], after["encoder.level_embed"].detach())


def test_lazy_config_trainer_trains_evaluates_and_resumes(lazy_cfg, tmp_path):
    cfg = to_cfg_node(lazy_cfg)
    trainer = LazyConfigTrainer(cfg)
    optimizer = trainer.optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([1e-4, 1e-3])
    norms = []
    optimizer.register_step_pre_hook(  # runs after the clipping
        lambda *_: norms.append(
            torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None])
            .norm()
            .item()
        )
    )
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert norms == pytest.approx([0.1, 0.1], rel=1e-3)
    # the second step of two is behind the only drop
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(1e-4)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert any("bbox/AP" in json.loads(line) for line in lines)
    card = card_of(read_checkpoint(tmp_path / "run" / "model_final.pth"))
    assert card.config == model_text(lazy_cfg.model) and len(card.categories) == 7

    cfg.SOLVER.MAX_ITER = 3
    again = LazyConfigTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    again.train()
    assert again.iter == 3


def test_training_data_continue_where_the_run_stopped(lazy_cfg):
    loader = LazyConfigTrainer.build_train_loader(to_cfg_node(lazy_cfg))

    def names(start, count):
        with EventStorage(start):
            batches = iter(loader)
            return [[x["file_name"] for x in next(batches)] for _ in range(count)]

    assert names(2, 3) == names(0, 5)[2:]


def test_evaluation_of_another_dataset(lazy_cfg, dataset):
    cfg = to_cfg_node(lazy_cfg)
    cfg.DATASETS.TEST = ("digits_val",)
    evaluator = LazyConfigTrainer.build_evaluator(to_cfg_node(lazy_cfg), dataset)
    assert isinstance(evaluator, COCOEvaluator)
    assert len(LazyConfigTrainer.build_test_loader(cfg, dataset)) == 4
    lazy_cfg.dataloader.evaluator = None
    with pytest.raises(NotImplementedError, match="evaluator"):
        LazyConfigTrainer.build_evaluator(to_cfg_node(lazy_cfg), dataset)


@pytest.mark.parametrize(
    "name",
    [
        "co_deformable_detr/co_deformable_detr_digits",
        "co_dino/co_dino_r50_5scale_12ep",
        "co_dino/co_dino_vit_large_5scale_12ep",
    ],
)
def test_whole_configs_can_be_expressed(name):
    lazy_cfg = model_zoo.get_config(name)
    cfg = to_cfg_node(lazy_cfg)
    restored = to_lazy_config(cfg)
    assert cfg.SOLVER.BASE_LR == lazy_cfg.optimizer.lr
    assert list(restored.model.query_sources) == list(lazy_cfg.model.query_sources)
    assert to_cfg_node(restored) == cfg
