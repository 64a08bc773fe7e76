"""Models with any auxiliary heads: many, none, one several times, one with masks."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from golden import DATA, co_deformable_detr_config, co_dino_config, dense_head
from safetensors.torch import load_file

from co_detr import model_zoo
from co_detr.checkpoint.class_layers import change_classes, class_layer
from co_detr.checkpoint.official import convert_official
from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.fcos import FCOSHead
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.paa import PAAHead
from co_detr.modeling.aux_heads.retinanet import RetinaNetHead

SIDE = 64
DENSE = {"retinanet": RetinaNetHead, "fcos": FCOSHead, "paa": PAAHead, "gfl": GFLHead}


def batch(*counts, masks=False):
    """Images with so many boxes each."""
    inputs = []
    for count in counts:
        corner = torch.rand(count, 2) * SIDE / 2
        boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2) * SIDE / 3], dim=1)
        truth = Instances((SIDE, SIDE), gt_boxes=Boxes(boxes), gt_classes=torch.arange(count) % 7)
        if masks:
            truth.gt_masks = BitMasks(torch.ones(count, SIDE, SIDE, dtype=torch.bool))
        inputs.append({"image": torch.rand(3, SIDE, SIDE) * 255, "instances": truth})
    return inputs


def with_heads(config, **heads):
    """A shrunken config with dense heads besides its own two."""
    cfg = config()
    for name, head in heads.items():
        cfg.aux_heads[name] = dense_head(cfg, head)
    return cfg


def train_step(model, inputs):
    losses = model.train()(inputs)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    return losses


@pytest.mark.parametrize("config", [co_deformable_detr_config, co_dino_config])
def test_seven_heads_of_which_one_comes_twice_train_and_have_queries_each(config):
    torch.manual_seed(0)
    model = instantiate(with_heads(config, atss2=ATSSHead, **DENSE))
    assert model.query_sources["customized"].heads == ["rcnn", "atss", "atss2", *DENSE]
    losses = train_step(model, batch(3, 0))
    for name in model.aux_heads:
        assert {f"{name}/loss_class", f"{name}/loss_box"} <= losses.keys()
        assert f"customized/{name}/loss_class_1" in losses
    first, second = model.aux_heads["atss"], model.aux_heads["atss2"]
    for (name, a), b in zip(first.named_parameters(), second.parameters()):
        assert a is not b, name
    assert losses["atss/loss_class"] != losses["atss2/loss_class"]


def test_roi_heads_have_their_parameters_first_wherever_they_are_listed():
    cfg = with_heads(co_deformable_detr_config)
    cfg.aux_heads.later = cfg.aux_heads.pop("rcnn")
    cfg.aux_heads.gfl = dense_head(cfg, GFLHead)
    with torch.device("meta"):
        model = instantiate(cfg)
    assert model.query_sources["customized"].heads == ["later", "atss", "gfl"]


def test_queries_of_some_heads_only():
    cfg = with_heads(co_deformable_detr_config, gfl=GFLHead)
    cfg.query_sources.customized.heads = ["gfl"]
    torch.manual_seed(0)
    losses = train_step(instantiate(cfg), batch(2))
    assert "atss/loss_class" in losses and "customized/atss/loss_class_0" not in losses
    assert "customized/gfl/loss_class_0" in losses
    cfg.query_sources.customized.heads = ["gfl", "fcos"]
    with pytest.raises(ValueError, match=r"queries of \['fcos'\], but .*'atss', 'gfl'\]: leave"):
        instantiate(cfg)


@pytest.mark.parametrize("name", DENSE)
def test_the_head_of_any_model_detects_as_its_branch(name):
    torch.manual_seed(0)
    cfg = with_heads(co_dino_config, **{name: DENSE[name]})
    cfg.eval_branch = name
    with torch.no_grad():
        (got,) = instantiate(cfg).eval()(batch(1))
    assert len(got["instances"]) > 0 and (got["instances"].scores.diff() <= 0).all()


def test_masks_of_co_dino():
    cfg = co_dino_config()
    full = model_zoo.get_config("co_deformable_detr/co_deformable_detr_mask_r50_12ep").model
    cfg.aux_heads.rcnn.mask_head = full.aux_heads.rcnn.mask_head
    cfg.aux_heads.rcnn.mask_head.conv_channels = 8
    cfg.eval_branch = "rcnn"
    torch.manual_seed(0)
    model = instantiate(cfg)
    for counts in ((2, 0), (0,)):
        model.zero_grad()
        losses = train_step(model, batch(*counts, masks=True))
        assert (losses["rcnn/loss_mask"] > 0) == (sum(counts) > 0)
    with torch.no_grad():
        (got,) = model.eval()(batch(1))
    assert got["instances"].pred_masks.shape[1:] == (SIDE, SIDE)


def test_class_layers_of_all_heads_follow_the_classes():
    """In heads of several anchors per cell a class has a row for each."""
    models = []
    for classes in (7, 3):
        cfg = with_heads(co_deformable_detr_config, atss2=ATSSHead, **DENSE)
        cfg.num_classes = classes
        models.append(instantiate(cfg))
    old, new = models
    names = [[f"class {i}" for i in range(7)], ["class 5", "new", "class 0"]]
    changed = change_classes(old.state_dict(), new, *names)
    assert {k: v.shape for k, v in changed.tensors.items()} == {
        k: v.shape for k, v in new.state_dict().items()
    }
    for head in ("atss2", *DENSE):
        weight = f"aux_heads.{head}.class_predictor.weight"
        assert class_layer(weight) is not None and weight in changed.layers
        # the outputs of an anchor stand together
        before = old.state_dict()[weight].unflatten(0, (-1, 7))
        after = changed.tensors[weight].unflatten(0, (-1, 3))
        assert torch.equal(after[:, 0], before[:, 5]) and torch.equal(after[:, 2], before[:, 0])
        assert torch.equal(after[:, 1], new.state_dict()[weight].unflatten(0, (-1, 3))[:, 1])


def test_released_names_of_dense_heads_go_by_their_place():
    """`bbox_head.0` is the first dense head of the model, whatever it is called."""
    cfg = co_deformable_detr_config()
    model = instantiate(cfg)
    released = load_file(DATA / "co_deformable_detr_tiny" / "weights.safetensors")
    ours = convert_official(released, model)
    cfg.aux_heads.other = dense_head(cfg, GFLHead)
    del cfg.aux_heads.atss
    gfl = instantiate(cfg)
    weights = load_file(DATA / "dense_heads" / "gfl" / "weights.safetensors")
    others = {k: v for k, v in released.items() if not k.startswith("bbox_head.0.")}
    others |= {f"bbox_head.0.{k}": v for k, v in weights.items()}
    converted = convert_official(others, gfl)
    assert torch.equal(converted["aux_heads.other.box_predictor.bias"], weights["gfl_reg.bias"])
    assert all(torch.equal(ours[k], converted[k]) for k in ours.keys() & converted.keys())
