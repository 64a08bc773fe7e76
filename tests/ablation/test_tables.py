"""The tables of the paper: every row can be trained, and trains what its labels say."""

import math
from functools import cache

import pytest
import torch
from detectron2.config import instantiate

from co_detr.ablation.paper import DATA_SETS, TABLES
from co_detr.ablation.runs import slug
from co_detr.arguments import load_config
from co_detr.model_zoo import get_config_file

ON = [(number, name) for number in TABLES for name in DATA_SETS]


@cache
def changed(model, dataset):
    """The config of a model as it is evaluated."""
    overrides = DATA_SETS[dataset].shared(model.config) + model.overrides
    if model.evaluation is not None:
        overrides += model.evaluation.overrides
    return load_config(get_config_file(model.config), overrides)[0]


def build(model):
    """The miniature of a row; what it is on COCO is up to the same changes."""
    with torch.device("meta"):
        return instantiate(changed(model, "digits").model)


@pytest.mark.parametrize("number, dataset", ON)
def test_every_config_of_a_table_loads_with_its_changes(number, dataset):
    for row in TABLES[number].rows_on(dataset):
        cfg = changed(row.models[dataset], dataset)
        assert cfg.train.max_iter > 0, row.labels


@pytest.mark.parametrize("number", TABLES)
def test_rows_have_a_cell_for_every_column_and_their_base(number):
    table = TABLES[number]
    for section in table.sections:
        for row in section.rows:
            assert len(row.labels) == len(table.labels)
            assert len(row.published) == len(table.published)
    for dataset in DATA_SETS:
        for section, rows in table.sections_on(dataset):
            assert section.rows[section.base] in rows
        labels = [row.labels for row in table.rows_on(dataset)]
        assert len(set(labels)) == len(labels) > 1


@pytest.mark.parametrize("dataset", DATA_SETS)
def test_folders_of_different_models_have_different_names(dataset):
    trained = {}
    for table in TABLES.values():
        for row in table.rows_on(dataset):
            model = row.models[dataset]
            trained.setdefault(slug(model), set()).add((model.config, model.overrides))
    assert [found for found in trained.values() if len(found) > 1] == []


@pytest.mark.parametrize("dataset", DATA_SETS)
def test_number_of_heads_is_as_labelled(dataset):
    for number in (2, 3, 7):
        table = TABLES[number]
        for row in table.rows_on(dataset):
            heads = changed(row.models[dataset], dataset).model.get("aux_heads", {})
            assert len([name for name in heads if name != "_target_"]) == row.labels[1]


def test_epochs_are_those_of_the_schedule():
    for table in TABLES.values():
        for row in table.rows_on("coco"):
            if "epochs" in table.labels:
                epochs = row.labels[table.labels.index("epochs")]
                assert changed(row.models["coco"], "coco").train.max_iter == epochs * 7393
    lengths = [
        changed(row.models["digits"], "digits").train.max_iter
        for row in TABLES[10].rows_on("digits")
    ]
    assert lengths == [300, 417, 833, 1250]  # 300 times 1, 50/36, 100/36, 150/36


def test_rows_are_changed_alike_on_every_data_set():
    for table in TABLES.values():
        for row in table.rows_on("digits"):
            coco, digits = row.models["coco"], row.models["digits"]
            assert coco.evaluation == digits.evaluation
            if table.number != 10:  # numbers of iterations
                assert coco.overrides == digits.overrides


def test_components_are_switched_as_labelled():
    for row in TABLES[9].rows_on("digits"):
        model = build(row.models["digits"])
        losses = len(model.aux_heads) > 0 and model.aux_losses
        assert (losses, "customized" in model.query_sources) == (
            row.labels[0] == "yes",
            row.labels[1] == "yes",
        )


def test_branches_are_evaluated_as_labelled():
    heads = {"ATSS": "atss", "Faster R-CNN": "rcnn"}
    for row in TABLES[11].rows_on("digits"):
        branch, nms, K = row.labels
        model = build(row.models["digits"])
        alone = K == 0 and branch in heads
        assert len(model.aux_heads) == (1 if alone else K)
        if branch in heads:
            assert model.eval_branch == heads[branch]
            threshold = model.aux_heads[model.eval_branch].suppression.iou_threshold
            usual = {"atss": 0.6, "rcnn": 0.5}[model.eval_branch]
            assert threshold == (usual if nms == "yes" else 1.0)
        else:
            assert model.eval_branch == "matching"
            suppression = model.postprocess.suppression
            assert suppression is None if nms == "no" else suppression.iou_threshold == 0.8


def test_towers_are_as_high_as_labelled():
    for row in TABLES[12].rows_on("digits"):
        head = build(row.models["digits"]).aux_heads.atss
        assert len(head.class_tower) == len(head.box_tower) == row.labels[0]


def test_loss_weights_are_as_labelled():
    for row in TABLES[13].rows_on("digits"):
        lambda_1, lambda_2, _ = row.labels
        model = build(row.models["digits"])
        assert model.query_sources.customized.weight == lambda_1
        per_layer = model.aux_heads.atss.class_loss_weight / len(model.decoder.layers)
        assert math.isclose(per_layer, lambda_2)
