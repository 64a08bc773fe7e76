"""Weights put into a model: all or nothing to use it, what fits to train it further."""

import logging
import math

import pytest
import torch
from detectron2.config import instantiate
from golden import build, co_deformable_detr_config, co_dino_config, tensors
from torch import nn
from zoo import RELEASES, release

from co_detr.checkpoint.class_layers import change_classes
from co_detr.checkpoint.hints import conversion_command
from co_detr.checkpoint.loading import load_for_inference, load_for_training
from co_detr.checkpoint.matching import UnfittingCheckpointError, compare
from co_detr.checkpoint.reading import read_checkpoint


def network(classes=3):
    torch.manual_seed(classes)
    return nn.ModuleDict({"backbone": nn.Linear(3, 2), "head": nn.Linear(2, classes)})


@pytest.fixture
def saved(tmp_path):
    """Writes a checkpoint and returns its path."""

    def save(state, **extra):
        torch.save({"model": state, **extra}, tmp_path / "file.pth")
        return tmp_path / "file.pth"

    return save


def misfit(model, path, **options):
    with pytest.raises(UnfittingCheckpointError) as error:
        load_for_inference(model, path, **options)
    return str(error.value)


# ---------------------------------------------------------------- comparison


def test_a_comparison_by_hand():
    model = network()
    file = {"backbone.weight": torch.zeros(2, 3), "backbone.bias": torch.tensor([math.nan, 0.0])}
    file |= {"head.weight": torch.zeros(4, 2), "extra": torch.zeros(1)}
    found = compare(file, model, "file.pth")
    assert not found.fits
    assert found.fitting == ("backbone.weight", "backbone.bias")
    assert found.missing == ("head.bias",)
    assert found.unexpected == ("extra",)
    assert [(m.name, m.file, m.model) for m in found.misshapen] == [("head.weight", (4, 2), (3, 2))]
    assert found.non_finite == ("backbone.bias",)
    for words in (
        "file.pth has 2 of the model's 4 tensors",
        "missing from it (1): head.bias",
        "of another shape (1): head.weight: file (4, 2), model (3, 2)",
        "not finite (1): backbone.bias",
        "unknown to the model (1): extra",
        "parts concerned: head (2)",
    ):
        assert words in found.describe()


def test_of_many_names_the_first_few_are_shown():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(50)))
    text = compare({"x": torch.ones(1)}, model).describe()
    assert "missing from it (100): 0.weight, 0.bias" in text and "and 95 more" in text
    assert len(text) < 400


def test_a_tensor_that_the_model_has_twice_is_needed_once():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model[1].weight = model[0].weight
    file = {name: t for name, t in model.state_dict().items() if name != "1.weight"}
    assert compare(file, model).fits


def test_counters_of_batch_norm_are_not_missed():
    model = nn.BatchNorm2d(2)
    file = {n: t for n, t in model.state_dict().items() if n != "num_batches_tracked"}
    assert compare(file, model).fits
    assert compare(model.state_dict() | {"x.num_batches_tracked": torch.tensor(1)}, model).fits


# ---------------------------------------------------------------- to use a model


def test_half_precision_is_taken_into_the_models(saved):
    model, source = network(), network(3)
    load_for_inference(model, saved(source.half().state_dict()))
    assert model["head"].weight.dtype == torch.float32
    assert torch.equal(model["head"].weight, source["head"].weight.float())


def test_what_does_not_fit_changes_nothing(saved):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items() if name != "head.bias"}
    assert "missing from it (1): head.bias" in misfit(model, saved(state))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_tensors_without_use_are_a_warning(saved, caplog):
    path = saved(network().state_dict() | {"aux_heads.atss.scale": torch.ones(1)})
    load_for_inference(network(), path)
    assert "has 1 tensors that the model has no use for: aux_heads.atss.scale" in caplog.text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(saved, value):
    state = network().state_dict()
    state["head.weight"][1, 0] = value
    message = misfit(network(), path := saved(state))
    assert "not finite (1): head.weight" in message and "earlier checkpoint" in message
    with pytest.raises(UnfittingCheckpointError, match=r"not finite \(1\): head.weight"):
        load_for_training(network(), read_checkpoint(path))


def test_classes_in_another_order_are_refused(saved, caplog):
    path = saved(network().state_dict(), class_names=["a", "b", "c"])
    load_for_inference(network(), path, class_names=["A", "b", "c"])
    assert "in another order" in misfit(network(), path, class_names=["b", "a", "c"])
    load_for_inference(network(), path, class_names=["x", "b", "c"])
    assert "was trained on the classes a, b, c, the data has x, b, c" in caplog.text


# ---------------------------------------------------------------- why it does not fit


@pytest.fixture(scope="module")
def model():
    return build(co_deformable_detr_config(), "co_deformable_detr_tiny")


def hint(state, model):
    return compare(state, model, "file.pth").hint


def resized(model, change):
    return {n: change(n, t) for n, t in model.state_dict().items()}


def test_hints(model):
    state = model.state_dict()
    fewer = {n: t for n, t in state.items() if not n.startswith("aux_heads.atss.")}
    assert "trained without aux_heads.atss" in hint(fewer, model)
    backbone = {n: t for n, t in state.items() if n.startswith("backbone.")}
    assert "a backbone alone" in hint(backbone, model)
    wider = resized(model, lambda n, t: t.repeat(2, *[1] * (t.dim() - 1)) if "res5" in n else t)
    assert "another backbone" in hint(wider, model)
    shallow = {n: t for n, t in state.items() if not n.startswith("encoder.layers.1.")}
    assert "model.encoder.num_layers=1" in hint(shallow, model)
    content = "query_sources.matching.content.weight"
    assert "It has 60 queries" in hint(state | {content: state[content].repeat(2, 1)}, model)
    assert "a DETR, DINO or detrex model" in hint({"transformer.x": torch.ones(1)}, model)
    assert hint(state, model) == ""


def test_another_number_of_classes(model):
    cfg = co_deformable_detr_config()
    cfg.num_classes = 5
    text = hint(model.state_dict(), instantiate(cfg))
    assert text == "It is for 7 classes: set model.num_classes=7 to run it as it is"


def test_the_other_family(model):
    dino = instantiate(co_dino_config())
    assert "family Co-DINO, the file of Deformable-DETR" in hint(model.state_dict(), dino)
    assert "family Deformable-DETR, the file of Co-DINO" in hint(dino.state_dict(), model)


def test_a_released_file_names_the_command_that_converts_it(model, tmp_path):
    path = tmp_path / "co_released.pth"
    torch.save({"state_dict": tensors("co_deformable_detr_tiny", "weights")}, path)
    command = (
        f"co-detr convert {path} co_released_converted.safetensors " "--config-file configs/mine.py"
    )
    message = misfit(model, path, config="configs/mine.py")
    assert "unconverted file of the authors" in message and message.endswith(command)
    with pytest.raises(UnfittingCheckpointError, match="unconverted file of the authors"):
        load_for_training(model, read_checkpoint(path))


@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
@pytest.mark.parametrize("name", RELEASES)
def test_the_config_of_a_released_file_is_guessed(model, name, wrapper):
    file = {wrapper + key: tensor for key, tensor in release(name).items()}
    command = conversion_command(file, model, f"{name}.pth", "another.py").splitlines()[0]
    assert command.endswith(f"--config-file configs/{RELEASES[name]}.py")


def test_a_released_file_without_class_layers_has_no_number_of_classes(model):
    file = release("co_deformable_detr_r50_1x_coco")
    file = {name: tensor for name, tensor in file.items() if "cls_branches" not in name}
    command = conversion_command(file, model, "file.pth", None)
    assert "or with configs/" in command and "num_classes" not in command


# ---------------------------------------------------------------- to train it further


def test_a_training_takes_what_fits_and_says_what_did_not(saved, caplog):
    caplog.set_level(logging.INFO)
    model, source = network(4), network(3)
    state = source.state_dict() | {"more": torch.ones(1)}
    del state["backbone.bias"]
    load_for_training(model, read_checkpoint(saved(state)))
    assert torch.equal(model["backbone"].weight, source["backbone"].weight)
    assert torch.equal(model["head"].weight, network(4)["head"].weight)
    for words in (
        "Loaded 1 of the model's 4 tensors",
        "2 tensors of another shape start anew: head.weight: file (3, 2), model (4, 2)",
        "1 tensors are not in",
        "1 tensors of",
    ):
        assert words in caplog.text


def test_a_training_from_weights_of_which_nothing_fits_is_refused(saved):
    path = saved({"layer1.0.conv1.weight": torch.ones(3, 3)})
    with pytest.raises(UnfittingCheckpointError, match="has 0 of the model's 4 tensors"):
        load_for_training(network(), read_checkpoint(path))


NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def test_rows_go_by_name_where_both_sides_have_names(model, saved, caplog):
    caplog.set_level(logging.INFO)
    fresh = instantiate(co_deformable_detr_config())  # as many classes, in another order
    state, before = model.state_dict(), {n: t.clone() for n, t in fresh.state_dict().items()}
    names = ["g", "new", "C", "a", "d", "e", "f"]
    load_for_training(fresh, read_checkpoint(saved(state, class_names=NAMES)), names)
    now = fresh.state_dict()
    for name in ("decoder.class_branches.1.weight", "aux_heads.atss.class_predictor.bias"):
        assert torch.equal(now[name][[0, 2, 3, 4]], state[name][[6, 2, 0, 3]])
        assert torch.equal(now[name][1], before[name][1])
    name = "aux_heads.rcnn.box_head.cls_score.weight"
    assert torch.equal(now[name][[0, 7]], state[name][[6, 7]])  # 7 is the background
    name = "aux_heads.rcnn.box_head.bbox_pred.weight"
    assert torch.equal(now[name][:4], state[name][24:28])
    # of class-agnostic proposals, row 0 says "object or not", whatever class 0 is
    name = "proposals.class_branch.weight"
    assert torch.equal(now[name][0], state[name][0])
    assert torch.equal(now[name][1:], before[name][1:])
    assert torch.equal(now["encoder.level_embed"], state["encoder.level_embed"])
    assert "6 of 7 keep their rows: g (6 -> 0), C, a (0 -> 3), d (3 -> 4)" in caplog.text
    assert "Classes that start anew: new" in caplog.text


def test_classes_of_the_same_names_are_loaded_as_they_are(model, saved):
    fresh = instantiate(co_deformable_detr_config())
    path = saved(model.state_dict(), class_names=NAMES)
    load_for_training(fresh, read_checkpoint(path), [name.upper() for name in NAMES])
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_name_that_two_classes_have_keeps_no_row(model, saved):
    fresh = instantiate(co_deformable_detr_config())
    before = fresh.decoder.class_branches[0].weight.detach().clone()
    path = saved(model.state_dict(), class_names=["a", "a", "c", "d", "e", "f", "g"])
    load_for_training(fresh, read_checkpoint(path), ["c", "a", "x", "d", "e", "f", "g"])
    now = fresh.decoder.class_branches[0].weight
    assert torch.equal(now[0], model.decoder.class_branches[0].weight[2])
    assert torch.equal(now[1], before[1])


def test_eighty_nameless_classes_are_taken_for_those_of_coco(saved, caplog):
    caplog.set_level(logging.INFO)
    cfg = co_deformable_detr_config()
    cfg.num_classes = 80
    source = instantiate(cfg)
    cfg.num_classes = 2
    fresh = instantiate(cfg)
    load_for_training(fresh, read_checkpoint(saved(source.state_dict())), ["bird", "sparrow"])
    weight = fresh.decoder.class_branches[0].weight
    assert torch.equal(weight[0], source.decoder.class_branches[0].weight[14])  # bird, from 0
    assert "1 of 2 keep their rows: bird (14 -> 0)" in caplog.text


def test_class_agnostic_layers_are_left_alone():
    cfg = co_deformable_detr_config()
    cfg.aux_heads.rcnn.box_head.class_agnostic_boxes = True
    torch.manual_seed(0)
    source = instantiate(cfg)
    cfg.num_classes = 2
    fresh = instantiate(cfg)
    changed = change_classes(source.state_dict(), fresh, NAMES, ["b", "x"])
    name = "aux_heads.rcnn.box_head.bbox_pred.weight"
    assert torch.equal(changed.tensors[name], source.state_dict()[name])
    assert changed.kept == (("b", 1, 0),) and changed.fresh == ("x",)


@pytest.mark.parametrize("classes", [["cat", "dog", "cow"], ["dog"]])
def test_class_agnostic_layers_are_left_alone_when_a_file_has_one_class(classes):
    cfg = co_deformable_detr_config()
    cfg.aux_heads.rcnn.box_head.class_agnostic_boxes = True
    cfg.num_classes = 1
    torch.manual_seed(0)
    source = instantiate(cfg)
    cfg.num_classes = len(classes)
    fresh = instantiate(cfg)
    changed = change_classes(source.state_dict(), fresh, ["cat"], classes)
    name = "aux_heads.rcnn.box_head.bbox_pred.weight"
    assert torch.equal(changed.tensors[name], source.state_dict()[name])
    name = "decoder.class_branches.0.weight"
    kept = torch.equal(changed.tensors[name][0], source.state_dict()[name][0])
    assert kept == ("cat" in classes) and len(changed.tensors[name]) == len(classes)


def test_the_last_stage_of_refined_masks_is_class_agnostic():
    def model(classes):
        stages = nn.ModuleList([nn.Conv2d(2, classes, 1), nn.Conv2d(2, 1, 1)])
        head = nn.ModuleDict({"predictors": stages})
        return nn.ModuleDict({"instance_mask": nn.ModuleDict({"mask_head": head})})

    source, fresh = model(1), model(2)
    changed = change_classes(source.state_dict(), fresh, ["a"], ["b", "a"])
    first, last = (f"instance_mask.mask_head.predictors.{i}.weight" for i in range(2))
    assert torch.equal(changed.tensors[first][1], source.state_dict()[first][0])
    assert torch.equal(changed.tensors[last], source.state_dict()[last])


def test_a_head_without_anchors_has_one_row_per_class():
    def model(classes):
        head = nn.ModuleDict({"class_predictor": nn.Linear(2, classes)})
        return nn.ModuleDict({"aux_heads": nn.ModuleDict({"own": head})})

    source, fresh = model(3), model(2)
    changed = change_classes(source.state_dict(), fresh, ["a", "b", "c"], ["c", "x"])
    name = "aux_heads.own.class_predictor.weight"
    assert torch.equal(changed.tensors[name][0], source.state_dict()[name][2])
    assert torch.equal(changed.tensors[name][1], fresh.state_dict()[name][1])
