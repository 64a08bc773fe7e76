"""Arguments in a config that the parts of a model cannot use are refused by their names."""

import functools
import re
import sys

import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf
from torch import nn

from co_detr import model_zoo
from co_detr.arguments import load_config
from co_detr.data import ResizeShortestEdge
from co_detr.engine.argument_checks import check_arguments
from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.transformer.encoder import DeformableEncoder

DIGITS = "co_deformable_detr/co_deformable_detr_digits"
COUNT = "a whole number of at least 1"


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_the_arguments_of_all_configs_are_right(name):
    cfg = model_zoo.get_config(name)
    before = OmegaConf.to_container(cfg)
    check_arguments(cfg)
    assert OmegaConf.to_container(cfg) == before


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.decoder.num_layers=two", f"='two' must be {COUNT}"),
        ("model.encoder.num_heads=-5", f"=-5 must be {COUNT}"),
        ("model.encoder.num_heads=4.5", f"=4.5 must be {COUNT}"),
        ("model.encoder.dropout=2", "=2 must be a number from 0 to 1"),
        ("model.neck.in_channels=7", "=7 must be a list of one or more values, each " + COUNT),
        ("model.neck.in_channels=[48,a]", "=[48, 'a'] must be a list of one or more values"),
        ("model.aux_heads.atss.num_candidates=-3", f"=-3 must be {COUNT}"),
        ("model.aux_heads.atss.loss_weight=null", "=null must be a number from 0 on"),
        ("model.aux_heads.rcnn.samples_per_image=0", f"=0 must be {COUNT}"),
        ("model.aux_heads.rcnn.nms_threshold=7", "=7 must be a number from 0 to 1"),
        ("model.aux_heads.rcnn.rpn.strides=[8,0]", "=[8, 0] must be a list of one or more values"),
        ("model.aux_heads.rcnn.rpn.pre_nms_topk=150", "=150 must be a list of 2 values, each"),
        ("model.aux_heads.rcnn.rpn.pre_nms_topk=[1,2,3]", "=[1, 2, 3] must be a list of 2 values"),
        ("model.aux_heads.rcnn.delta_std=[0.1,0.1]", "=[0.1, 0.1] must be a list of 4 values"),
        ("model.query_sources.customized.padding=zero", "='zero' must be one of 'negatives', 'm"),
        ("model.query_sources.matching.num_queries=0", f"=0 must be {COUNT}"),
        ("model.pixel_mean=[1,2]", "=[1, 2] must be a list of 3 values, each a number"),
        ("model.pixel_std=[0,1,2]", "=[0, 1, 2] must be a list of 3 values, each a number a"),
        ("model.image_format=XYZ", "='XYZ' must be one of 'RGB', 'BGR'"),
        ("model.mask_padding=maybe", "='maybe' must be True or False"),
        ("model.eval_branch=7", "=7 must be a text"),
        ("model.aux_heads=none", "='none' must be values by name, or null"),
        ("model.decoder=deep", "='deep' must be a call that makes a module"),
        ("model.proposals=3", "=3 must be a call that makes a module, or null"),
        ("model.criterion.matcher.class_cost=-1", "=-1 must be a number from 0 on"),
        ("model.aux_heads.atss.strides=[]", "=[] must be a list of one or more values, each a wh"),
        ("model.backbone.freeze_at=x", "='x' must be a number"),
        ("lr_multiplier.scheduler.end_value=x", "='x' must be a number"),
        ("dataloader.train.mapper.augmentations=3", "=3 must be a list of values"),
        ("dataloader.test.mapper.image_format=L", "='L' must be one of 'RGB', 'BGR'"),
    ],
)
def test_wrong_values_are_refused_by_name(override, message):
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=re.escape(key + message)):
        load_config(DIGITS, [override])


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "model.query_sources.matching.num_querys=3",
            "SelectedQueries .*'num_querys'.* num_q",
        ),
        ("model.aux_heads.atss.num_canditates=3", "ATSSHead .*'num_canditates'.* num_candidates"),
        ("model.lambda1=3", "CoDETR .*'lambda1'.* lambda_1"),
        ("model.backbone.depth=7", "ResNet .*'depth'.* freeze_at, num_classes"),
    ],
)
def test_arguments_that_there_are_not_are_refused_with_close_ones(override, message):
    with pytest.raises(ValueError, match=f"^{override.partition('=')[0]}: {message}"):
        load_config(DIGITS, [override])


def test_what_points_to_a_wrong_value_is_not_to_blame():
    """The decoder's embed_dim and many others point to that of the encoder or the neck."""
    with pytest.raises(ValueError, match=r"^model.neck.out_channels='wide'"):
        load_config(DIGITS, ["model.neck.out_channels=wide"])


@pytest.mark.parametrize(
    "key, common",
    [
        ("model.aux_heads.atss.num_classes", "model.num_classes=10"),
        ("model.aux_heads.rcnn.box_head.num_classes", "model.num_classes=10"),
        ("model.decoder.num_classes", "model.num_classes=10"),
        ("model.proposals.embed_dim", "model.encoder.embed_dim=64"),
        ("model.query_sources.customized.embed_dim", "model.encoder.embed_dim=64"),
        ("model.aux_heads.rcnn.rpn.in_channels", "model.pyramid.embed_dim=64"),
        ("model.aux_heads.rcnn.box_head.in_channels", "model.pyramid.embed_dim=64"),
        ("model.decoder.num_levels", "model.encoder.num_levels=3"),
    ],
)
def test_parts_have_classes_and_channels_in_common(key, common):
    with pytest.raises(ValueError, match=f"^{key}=7, but {common}: make them the same"):
        load_config(DIGITS, [f"{key}=7"])


def test_functions_that_also_take_a_config_are_left_alone():
    """As detectron2's `configurable` makes them."""

    class Net(nn.Module):
        def __init__(self, width: int):
            super().__init__()

    @functools.wraps(Net.__init__)
    def from_config(self, *args, **kwargs):
        pass

    Net.__init__ = from_config
    Net.__module__ = "detectron2.modeling.net"
    check_arguments(OmegaConf.create({"net": L(Net)(cfg="x")}, flags={"allow_objects": True}))


def test_whole_numbers_may_be_written_as_floats():
    cfg, _ = load_config(DIGITS, ["model.query_sources.matching.num_queries=3e1"])
    number = cfg.model.query_sources.matching.num_queries
    assert number == 30 and type(number) is int and type(cfg.model.proposals.num_proposals) is int


def test_null_passes_where_it_means_something():
    cfg, _ = load_config(DIGITS, ["model.canvas=null", "model.aux_heads.atss.suppression=null"])
    check_arguments(cfg)


class Backbone(nn.Module):
    """A part of somebody else."""

    def __init__(self, num_layers: int):
        super().__init__()


def test_parts_of_others_may_be_given_anything():
    cfg, _ = load_config(DIGITS)
    cfg.model.backbone = L(Backbone)(num_layers="all", dropout=7)
    check_arguments(cfg)


def test_parts_of_others_may_change_classes_and_channels():
    cfg, _ = load_config(DIGITS)
    cfg.model.query_sources.matching.embed_dim = 128
    with pytest.raises(ValueError, match="make them the same"):
        check_arguments(cfg)
    cfg.model.decoder = L(Backbone)(num_layers=1)
    check_arguments(cfg)


def test_numbers_and_lists_may_be_those_of_python_code():
    cfg, _ = load_config(DIGITS)
    cfg.model.encoder.dropout = np.float64(0.5)
    cfg.model.aux_heads.rcnn.rpn.nms_threshold = np.float32(0.5)
    cfg.model.aux_heads.rcnn.rpn.strides = (8, 16, 32, 64)
    cfg.model.decoder.num_layers = np.int64(2)
    cfg.dataloader.train.mapper.augmentations = [
        L(ResizeShortestEdge)(short_edge_length=range(96, 128, 8), max_size=sys.maxsize)
    ]
    cfg.lr_multiplier.scheduler = L(MultiStepParamScheduler)(
        values=[1, 0.1], milestones=[0.9 * 12345], num_updates=12345
    )
    check_arguments(cfg)


def test_what_is_built_within_a_list_is_checked_too():
    cfg = OmegaConf.create({"parts": [L(ATSSHead)(in_channels=8, num_classes=0, strides=[8])]})
    with pytest.raises(ValueError, match=r"^parts\[0\].num_classes=0 must be"):
        check_arguments(cfg)


def test_a_target_may_be_named_by_text():
    target = f"{DeformableEncoder.__module__}.{DeformableEncoder.__name__}"
    cfg = OmegaConf.create({"encoder": {"_target_": target, "num_layers": 0}})
    with pytest.raises(ValueError, match=r"^encoder.num_layers=0 must be"):
        check_arguments(cfg)
    cfg.encoder["_target_"] = "co_detr.modeling.nowhere.Encoder"
    check_arguments(cfg)  # that there is no such thing is said when it is built
    with pytest.raises(Exception, match="nowhere"):
        instantiate(cfg.encoder)


def test_values_that_are_missing_or_point_to_nothing_are_left_to_those_who_build():
    cfg, _ = load_config(DIGITS)
    cfg.model.encoder.num_layers = "???"
    cfg.model.neck.num_outs = "${nothing.here}"
    check_arguments(cfg)
