"""Parameters and multiply-adds of a small model against sums worked by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from golden import co_deformable_detr_config, keep_encoder_heads

from co_detr import model_zoo

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("analyze_model", ROOT / "tools/analyze_model.py")
analyze_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(analyze_model)


@pytest.fixture(scope="module")
def counted():
    """Of the shrunken R50 model on 64x96 pixels: C = 64, M = 8, 4 levels, P = 4, 30 queries."""
    with torch.device("meta"):
        model = instantiate(co_deformable_detr_config())
    return analyze_model.analyze(model, (64, 96))


S = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2  # tokens of strides 8 to 64
C, Q, SAMPLES = 64, 30, 8 * 4 * 4


def deformable_attention(queries):
    offsets_and_weights = queries * C * 3 * SAMPLES
    projections = S * C * C + queries * C * C
    sampling = 5 * queries * SAMPLES * (C // 8)  # 4 corners and a weight, D values per sample
    return offsets_and_weights + projections + sampling


def test_the_encoder_by_hand(counted):
    layer = deformable_attention(S) + 2 * S * C * 128
    assert counted.multiply_adds["encoder.layers.0.attention"] == deformable_attention(S)
    assert counted.multiply_adds["encoder.layers.1"] == layer
    assert counted.multiply_adds["encoder"] == counted.multiply_adds["encoder.layers"] == 2 * layer


def test_the_decoder_by_hand(counted):
    self_attention = 4 * Q * C * C + 2 * Q * Q * C
    assert counted.multiply_adds["decoder.layers.0.self_attention"] == self_attention
    layer = self_attention + deformable_attention(Q) + 2 * Q * C * 128
    branches = Q * C * 7 + 2 * Q * C * C + Q * C * 4
    assert counted.multiply_adds["decoder"] == 2 * (layer + branches)


def test_the_first_convolution_by_hand(counted):
    assert counted.multiply_adds["backbone.stem"] == 32 * 48 * 4 * 3 * 7 * 7


def test_the_whole_is_the_sum_of_its_parts(counted):
    parts = ("backbone", "neck", "encoder", "proposals", "query_sources", "decoder")
    assert counted.multiply_adds[""] == sum(counted.multiply_adds[part] for part in parts)
    assert "aux_heads" not in counted.multiply_adds  # training alone needs them


def test_parameters_and_those_that_inference_needs(counted):
    assert counted.parameters["encoder.layers.0.ffn"] == 2 * C * 128 + 128 + C
    training = ("aux_heads", "pyramid", "query_sources.customized")
    left = counted.parameters[""] - sum(counted.parameters[part] for part in training)
    assert counted.inference_parameters == left


CELLS = S + 1  # of the pyramid: one more level, of stride 128


def alone(*heads, **options):
    cfg = co_deformable_detr_config()
    keep_encoder_heads(cfg, *heads)
    cfg.update(options)
    with torch.device("meta"):
        return analyze_model.analyze(instantiate(cfg), (64, 96))


def test_a_dense_head_alone_by_hand():
    result = alone("atss")
    towers_and_predictors = 9 * C * (2 * C + 7 + 4 + 1)
    assert result.multiply_adds["aux_heads.atss"] == CELLS * towers_and_predictors
    assert result.inference_parameters == result.parameters[""]


def test_a_head_of_regions_alone_by_hand():
    result = alone("rcnn", "atss", eval_branch="rcnn")
    rpn = CELLS * (9 * C * C + C * 9 * (1 + 4))  # nine anchors a cell
    box_head = 80 * (49 * C * 16 + 16 * 16 + 16 * (8 + 4 * 7))  # of 80 proposals
    assert result.multiply_adds["aux_heads.rcnn"] == rpn + box_head
    atss = result.parameters["aux_heads.atss"]
    assert result.inference_parameters == result.parameters[""] - atss


@pytest.mark.parametrize(
    "name, serves",
    [
        ("backbone.stem.conv1.weight", True),
        ("query_sources.matching.content.weight", True),
        ("query_sources.matching.extra.weight", False),  # groups beside the matching one
        ("query_sources.customized.head_position", False),
    ],
)
def test_inference_does_without_what_only_training_uses(name, serves):
    assert analyze_model.serves_inference(name) is serves


def test_the_report_says_the_size_and_what_is_left_out(counted):
    text = analyze_model.report(counted, (64, 96), depth=1)
    assert "inference of one image of 64x96" in text
    assert {"native_layer_norm", "relu", "_softmax"} <= set(counted.uncounted)
    assert "addmm" not in counted.uncounted and "grid_sampler_2d" not in counted.uncounted


def test_sizes_are_those_of_the_test():
    for name, size in {
        "co_dino/co_dino_r50_5scale_12ep": (800, 1333),
        "co_dino/co_dino_swin_large_5scale_lsj_12ep": (1280, 1280),
        "co_deformable_detr/co_deformable_detr_digits": None,
    }.items():
        assert analyze_model.test_size(model_zoo.get_config(name)) == size


def test_a_table_is_measured_anew():
    row = "| [`x`](configs/co_deformable_detr/co_deformable_detr_digits.py) | 128x128 | a | b | c |"
    columns = "| Config | Input | Params (M) | In inference (M) | GFLOPs |"
    text = f"before | not a table\n\n{columns}\n|---|---|---|---|---|\n{row}\nafter"
    changed = analyze_model.update_table(text, ROOT).split("\n")
    assert changed[:4] == text.split("\n")[:4] and changed[5] == "after"
    cells = [cell.strip() for cell in changed[4].split("|")][3:-1]
    assert cells[:2] == ["2.4", "1.8"] and float(cells[2]) > 0
    with pytest.raises(ValueError, match="no table has the columns Input, Params"):
        analyze_model.update_table("nothing here", ROOT)
