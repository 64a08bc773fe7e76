"""Conversion of released weights, on the R50 model without content (all: test_official_all.py)."""

import pytest
import torch
from zoo import RELEASES, build_on_meta, meta_model, release

from co_detr.checkpoint.official import convert_official, official_table
from co_detr.checkpoint.rename import ConversionError, Rename, rename

R50 = "co_deformable_detr_r50_1x_coco"


@pytest.fixture(scope="module")
def model():
    return meta_model(RELEASES[R50])


def test_converted_weights_load_strictly():
    model = build_on_meta(RELEASES[R50])
    model.load_state_dict(convert_official(release(R50), model), strict=True, assign=True)


def test_only_counters_of_batch_norm_are_dropped(model):
    source = release(R50)
    report = rename(source, official_table(model), model.state_dict())[1]
    assert len(report) == len(source)
    dropped = [name for name, target in report if target is None]
    assert all(name.endswith(".num_batches_tracked") for name in dropped)
    targets = [target for _, target in report if target is not None]
    assert len(set(targets)) == len(targets) == len(model.state_dict())


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("backbone.layer3.5.conv2.weight", "backbone.res4.5.conv2.weight"),
        ("backbone.layer1.0.downsample.1.running_var", "backbone.res2.0.shortcut.norm.running_var"),
        ("query_head.cls_branches.5.bias", "decoder.class_branches.5.bias"),
        ("query_head.cls_branches.6.bias", "proposals.class_branch.bias"),
        ("query_head.reg_branches.6.4.weight", "proposals.box_branch.4.weight"),
        (
            "query_head.transformer.aux_pos_trans.1.weight",  # head 0 is Faster R-CNN, 1 is ATSS
            "query_sources.customized.encode.1.linear.weight",
        ),
        ("bbox_head.0.atss_centerness.weight", "aux_heads.atss.quality_predictor.weight"),
        ("roi_head.0.bbox_head.fc_reg.bias", "aux_heads.rcnn.box_head.bbox_pred.bias"),
    ],
)
def test_some_names_by_hand(model, theirs, ours):
    report = dict(rename(release(R50), official_table(model), model.state_dict())[1])
    assert report[theirs] == ours


def test_values_arrive_under_their_new_names(model):
    source = release(R50)
    source["query_head.transformer.level_embeds"] = torch.arange(1024.0).view(4, 256)
    converted = convert_official(source, model)
    assert torch.equal(converted["encoder.level_embed"], torch.arange(1024.0).view(4, 256))


def test_a_surplus_tensor_is_named(model):
    source = release(R50) | {"query_head.mystery.weight": torch.empty(3, device="meta")}
    with pytest.raises(ConversionError, match=r"no rule knows \(1\):\n  query_head.mystery.weight"):
        convert_official(source, model)


def test_a_tensor_beyond_the_model_is_named(model):
    name = "query_head.transformer.encoder.layers.{}.norms.0.weight"
    source = release(R50)
    source[name.format(6)] = source[name.format(5)]
    with pytest.raises(ConversionError, match="encoder.layers.6.attention_norm.weight"):
        convert_official(source, model)


def test_a_missing_tensor_is_named(model):
    source = release(R50)
    del source["query_head.transformer.enc_output.bias"]
    with pytest.raises(ConversionError, match=r"checkpoint lacks \(1\):\n  proposals.output.bias"):
        convert_official(source, model)


def test_two_tensors_for_one_name_are_refused():
    table = [Rename("a", "x"), Rename("b", "x")]
    source = {"a": torch.zeros(1), "b": torch.ones(1)}
    with pytest.raises(ConversionError, match=r"two checkpoint tensors claim \(1\):\n  x"):
        rename(source, table, {"x": torch.zeros(1)})


def test_a_wrong_number_of_classes_names_the_shapes():
    model = build_on_meta(RELEASES[R50], num_classes=20)
    with pytest.raises(ConversionError) as error:
        convert_official(release(R50), model)
    message = str(error.value)
    for branch in range(6):
        line = f"decoder.class_branches.{branch}.bias: checkpoint (80,), model (20,)"
        assert line in message
    assert "aux_heads.rcnn.box_head.cls_score.bias: checkpoint (81,), model (21,)" in message
    assert "aux_heads.rcnn.box_head.bbox_pred.weight: checkpoint (320, 1024), model (80, 1024)" in (
        message
    )
    assert "aux_heads.atss.class_predictor.bias: checkpoint (80,), model (20,)" in message
    assert "proposals.class_branch.bias: checkpoint (80,), model (20,)" in message
    assert "lacks" not in message and "no rule knows" not in message  # nothing but the shapes
