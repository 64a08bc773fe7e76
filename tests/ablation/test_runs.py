"""Runs by their folders: names, settings, how far they have come."""

import dataclasses
import json

import pytest
from detectron2.config import LazyConfig
from toy_runs import CONFIG

from co_detr.ablation.runs import ForeignRunError, Run, check_folder, load, plan, slug
from co_detr.ablation.tables import DataSet, Model, Row, Section, Table

DIGITS = DataSet("digits", ("train.max_iter=6",), {"co_dino/": ("train.max_iter=9",)}, False)


def table_of(*models):
    rows = tuple(Row((k,), (None,), {"digits": model}) for k, model in enumerate(models))
    return Table(99, "toy", ("number",), (Section("toy", rows),))


def test_folders_are_named_by_config_changes_and_seed(tmp_path):
    changed = Model(CONFIG, ("model.aux_losses=False", "model.a.b.num_convs=3"))
    other = Model("co_dino/co_dino_digits_k0")
    runs = plan(table_of(changed, other), DIGITS, 2, ["train.log_period=1"], tmp_path)
    name = "co_deformable_detr_digits_k0__aux_losses=False__num_convs=3"
    assert [run.folder for run in runs[changed]] == [
        tmp_path / "digits" / name / "seed0",
        tmp_path / "digits" / name / "seed1",
    ]
    own = ("train.max_iter=6", *changed.overrides, "train.log_period=1")
    assert runs[changed][1] == Run(CONFIG, own, 1, runs[changed][1].folder)
    assert runs[other][0].iterations == 9  # a schedule of its own
    assert slug(other) == "co_dino_digits_k0"


def test_a_config_that_is_missing_is_named_with_its_row(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Table 99, row \(1,\): no config 'co_dino/no'"):
        plan(table_of(Model(CONFIG), Model("co_dino/no")), DIGITS, 1, [], tmp_path)


def leave(run, *rows, weights=True):
    run.folder.mkdir(parents=True)
    lines = [json.dumps(row) for row in rows]
    (run.folder / "metrics.json").write_text("\n".join(lines) + '\n{"iteration": 9, "tot')
    if weights:
        run.weights.touch()


def test_a_run_is_complete_with_weights_and_the_last_evaluation(make_run):
    run = make_run(iterations=4)
    assert not run.is_started() and run.iterations_done() == 0
    leave(run, {"iteration": 1, "total_loss": 1.0}, weights=False)
    assert run.is_started() and not run.is_complete() and run.iterations_done() == 2
    run.weights.touch()
    assert not run.is_complete()
    evaluated = [{"iteration": 3, "total_loss": 1.0}, {"iteration": 4, "bbox/AP": 5.0}]
    run.metrics.write_text("\n".join(map(json.dumps, evaluated)))
    assert run.is_complete() and run.iterations_done() == 4


def test_a_folder_of_the_training_script_is_judged_by_its_config(make_run):
    run = make_run(iterations=4)
    overrides = (*run.overrides, "train.log_period=7", "optimizer.betas=[0.8,0.9]")
    run = dataclasses.replace(run, overrides=overrides)
    leave(run)
    with pytest.raises(ForeignRunError, match="neither run.json nor config.yaml"):
        check_folder(run)
    saved = load(CONFIG, [*overrides, "train.seed=0", "train.output_dir=elsewhere"])
    LazyConfig.save(saved, str(run.folder / "config.yaml"))
    check_folder(run)
    with pytest.raises(ForeignRunError, match=r"\(seed is 0 there, 1 here\)"):
        check_folder(dataclasses.replace(run, seed=1))
    longer = (*overrides, "train.max_iter=5", "train.log_period=8")
    message = r"train.max_iter is 4 there, 5 here; train.log_period is 7 there, 8 here"
    with pytest.raises(ForeignRunError, match=message):
        check_folder(dataclasses.replace(run, overrides=longer))
