"""Folders of other runs, and resumed runs whose settings have changed."""

import json
import os
import shutil

import pytest
import torch
import torch.multiprocessing as mp
from jobs import arguments, in_a_process, losses
from omegaconf import OmegaConf

from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.engine import main
from co_detr.engine.run_folder import claimed

EMA = ["train.ema.enabled=True", "train.ema.decay=0.75"]
# rates that do not depend on the length of the run
CONSTANT = "lr_multiplier.end_value=1.0"


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The output of a run of four iterations."""
    folder = tmp_path_factory.mktemp("four")
    assert in_a_process(arguments(folder, "train.max_iter=4", CONSTANT)) == 0
    return folder


@pytest.fixture
def copied(four, tmp_path):
    """A copy of it."""
    return shutil.copytree(four, tmp_path / "run")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def load(path):
    return torch.load(path, weights_only=True)


def trainer_state(folder):
    return load(folder / "model_final.pth")["trainer"]


def evaluations(folder):
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [row["iteration"] for row in rows if "bbox/AP" in row]


def resume(folder, *overrides):
    return main(arguments(folder, "train.max_iter=6", CONSTANT, *overrides, resume=True))


# ---------------------------------------------------------------- files that are broken


ABSENT = object()


@pytest.mark.parametrize(
    "key, value",
    [
        ("trainer", ABSENT),  # weights alone, as of a model that is ready
        ("trainer", None),
        ("trainer.iteration", ABSENT),
        ("trainer.iteration", "three"),
        ("trainer.hooks", None),
        ("trainer.optimizer", ABSENT),
        ("trainer.optimizer", {}),
        ("trainer.optimizer.state", 5),
        ("trainer.parameters", 5),
        ("ema", {}),
    ],
)
def test_a_checkpoint_without_the_state_of_a_run_is_not_resumed(copied, key, value):
    path = copied / "model_final.pth"
    content = {**load(path), "ema": load(path)["model"]}
    *folders, last = key.split(".")
    part = content
    for folder in folders:
        part = part[folder]
    part[last] = value
    if value is ABSENT:
        del part[last]
    torch.save(content, path)
    before = files(copied)
    with pytest.raises(ValueError, match=r"model_final\.pth holds no state of a run.*init_check"):
        resume(copied, *EMA)
    assert {name: data for name, data in files(copied).items() if name.endswith(".pth")} == {
        name: data for name, data in before.items() if name.endswith(".pth")
    }


def test_a_checkpoint_without_weights_is_of_another_model(copied):
    path = copied / "model_final.pth"
    torch.save({**load(path), "model": None}, path)
    with pytest.raises(UnfittingCheckpointError, match=r"model_final\.pth"):
        resume(copied)


@pytest.mark.parametrize("content", [b"\0" * 20, b"\xff\xfem", b"", b"/"])
def test_a_broken_last_checkpoint_is_named(copied, content):
    (copied / "last_checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match="last_checkpoint is broken: it must hold the name"):
        resume(copied)


# ---------------------------------------------------------------- folders of other runs


def test_a_folder_with_another_run_is_refused_and_stays_as_it_is(copied):
    before = files(copied)
    with pytest.raises(
        FileExistsError, match=r"another run \(last_checkpoint, metrics\.json,"
    ) as e:
        main(arguments(copied, "train.max_iter=2"))
    assert "--resume" in str(e.value) and "train.output_dir=..." in str(e.value)
    assert files(copied) == before


@pytest.mark.parametrize("trace", ["last_checkpoint", "metrics.json", "model_best.pth"])
def test_each_trace_of_a_run_is_enough(tmp_path, trace):
    (tmp_path / trace).write_text("{}")
    with pytest.raises(FileExistsError, match=trace):
        main(arguments(tmp_path))


def test_what_a_failed_start_leaves_is_no_run(tmp_path):
    for name in ("config.yaml", "log.txt", "seed.txt"):
        (tmp_path / name).write_text("1")
    (tmp_path / "metrics.json").touch()
    main(arguments(tmp_path, "train.max_iter=1"))
    assert (tmp_path / "model_final.pth").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again_with_resume(tmp_path):
    # one line of metrics is written, no checkpoint
    in_a_process(arguments(tmp_path, "train.log_period=1", "model.kill_at=2"))
    assert (tmp_path / "metrics.json").stat().st_size > 0
    with pytest.raises(FileExistsError, match="metrics.json"):
        main(arguments(tmp_path))
    main(arguments(tmp_path, "train.log_period=1", "train.max_iter=4", resume=True))
    rows = map(json.loads, (tmp_path / "metrics.json").read_text().splitlines())
    assert [row["iteration"] for row in rows if "total_loss" in row] == [0, 1, 2, 3]


@pytest.mark.parametrize("below", ["", "run/of/mine"])
def test_an_output_folder_that_is_a_file_is_named(tmp_path, below):
    file = tmp_path / "results"
    file.write_text("x")
    for resume in (False, True):
        with pytest.raises(NotADirectoryError, match=rf"{file} is a file, no folder"):
            main(arguments(file / below if below else file, resume=resume))
    assert file.read_text() == "x"


# ---------------------------------------------------------------- changed settings


def resumed(folder, *overrides):
    """Resume until iteration 6; returns what the log says of it."""
    before = len(log(folder))
    main(arguments(folder, CONSTANT, "train.max_iter=6", *overrides, resume=True))
    return log(folder)[before:]


def log(folder):
    return (folder / "log.txt").read_text()


def test_settings_of_the_optimizer_are_those_of_the_config(copied):
    said = resumed(copied, "optimizer.lr=0.002", "optimizer.betas=[0.7,0.9]", "+optimizer.eps=1e-6")
    (group,) = trainer_state(copied)["optimizer"]["param_groups"]
    assert (group["lr"], group["initial_lr"]) == (0.002, 0.002)
    assert (group["betas"], group["eps"]) == ((0.7, 0.9), 1e-6)
    assert "optimizer: lr was 0.01, is 0.002 from here on (4 parameters)" in said
    assert "optimizer: betas was (0.8, 0.9), is (0.7, 0.9) from here on (4 parameters)" in said
    assert "optimizer: eps was 1e-08, is 1e-06 from here on (4 parameters)" in said
    rows = map(json.loads, (copied / "metrics.json").read_text().splitlines())
    assert [row["lr"] for row in rows if "total_loss" in row] == [0.01, 0.01, 0.002]


def test_the_state_of_the_optimizer_is_continued_all_the_same(copied):
    resumed(copied, "optimizer.lr=0.002")
    steps = {s["step"].item() for s in trainer_state(copied)["optimizer"]["state"].values()}
    assert steps == {6.0}


def test_changes_of_length_batch_and_seed_are_said(copied):
    said = resumed(
        copied, "dataloader.train.total_batch_size=4", "train.seed=4", "train.accumulate=2"
    )
    assert "train.max_iter was 4, is 6: the learning rate schedule is that of the new" in said
    assert "total_batch_size was 2, is 4: the order of the data is not the one" in said
    assert "train.seed was 3, is 4: order of the data" in said
    assert "train.accumulate was 1, is 2" in said


def test_nothing_is_said_where_nothing_changed(tmp_path):
    in_a_process(arguments(tmp_path, "model.kill_at=7"))
    before = len(log(tmp_path))
    main(arguments(tmp_path, resume=True))
    said = log(tmp_path)[before:]
    assert "[Checkpointer] Loading from" in said and "scratch" not in said
    warnings = [line for line in said.splitlines() if "WARNING" in line]
    assert not warnings


def test_another_schedule_is_said(copied):
    said = resumed(copied, "lr_multiplier.end_value=0.5")
    assert "lr_multiplier has changed: the learning rates follow the new schedule" in said


def test_another_model_is_refused_with_names_before_the_optimizer_looks_at_it(copied):
    before = files(copied)["model_final.pth"]
    with pytest.raises(UnfittingCheckpointError) as error:
        main(arguments(copied, "+model.model.width=9", "train.max_iter=6", resume=True))
    assert "model.layers.0.weight: file (8, 4), model (9, 4)" in str(error.value)
    assert "train.init_checkpoint=" in str(error.value) and "another model" in str(error.value)
    assert files(copied)["model_final.pth"] == before


def test_averaged_weights_switched_on_start_from_the_present_ones(copied):
    said = resumed(copied, *EMA, "train.max_iter=5")
    assert "no averaged weights, so they start from the present ones" in said
    state = load(copied / "model_final.pth")
    name = "model.layers.0.weight"
    assert torch.equal(state["ema"][f"module.{name}"], state["model"][name])


def test_averaged_weights_switched_off_are_said(tmp_path):
    main(arguments(tmp_path, *EMA, "train.max_iter=4"))
    said = resumed(tmp_path)
    assert "train.ema is off: the averaged weights of" in said


def test_parameters_that_are_thawed_start_without_a_state_and_others_go_on(tmp_path):
    main(arguments(tmp_path, CONSTANT, "train.max_iter=4", "train.freeze=[model.layers.0]"))
    frozen = load(tmp_path / "model_final.pth")["model"]["model.layers.0.weight"]
    said = resumed(tmp_path)
    assert "2 parameters were not trained before and start without optimizer state" in said
    state = load(tmp_path / "model_final.pth")
    assert not torch.equal(state["model"]["model.layers.0.weight"], frozen)
    names = [name for group in state["trainer"]["parameters"] for name in group]
    steps = state["trainer"]["optimizer"]["state"]
    assert {name: steps[i]["step"].item() for i, name in enumerate(names)} == {
        "model.layers.0.weight": 2.0,
        "model.layers.0.bias": 2.0,
        "model.layers.3.weight": 6.0,
        "model.layers.3.bias": 6.0,
    }


def test_another_optimizer_starts_without_a_state(copied):
    sgd = "optimizer._target_=torch.optim.Adam"
    said = resumed(copied, sgd)
    assert "optimizer was AdamW, is Adam: it starts without a state" in said


def test_checkpoints_without_names_of_parameters_are_resumed_if_the_groups_are_the_same(copied):
    path = copied / "model_final.pth"
    state = load(path)
    for key in ("parameters", "optimizer_type", "facts"):
        del state["trainer"][key]
    torch.save(state, path)
    frozen = "train.freeze=[model.layers.0]"
    with pytest.raises(ValueError, match=r"groups of \[2\] parameters, .* they are of \[4\]"):
        main(arguments(copied, "train.max_iter=6", frozen, resume=True))
    main(arguments(copied, "train.max_iter=6", resume=True))
    assert {s["step"].item() for s in trainer_state(copied)["optimizer"]["state"].values()} == {6.0}


# ---------------------------------------------------------------- whose folder it is


def saved_config(folder):
    return OmegaConf.load(folder / "config.yaml")


def test_the_config_of_a_run_is_that_of_its_training(copied):
    before = (copied / "config.yaml").read_bytes()
    weights = f"train.init_checkpoint={copied}/model_final.pth"
    main(arguments(copied, weights, "optimizer.lr=7", eval_only=True))
    with pytest.raises(UnfittingCheckpointError):
        main(arguments(copied, "model.model.width=9", "train.max_iter=6", resume=True))
    assert (copied / "config.yaml").read_bytes() == before
    resume(copied, "optimizer.lr=0.02")
    assert saved_config(copied).optimizer.lr == 0.02
    assert saved_config(copied).train.max_iter == 6
    assert not list(copied.glob(".config*"))


def test_a_config_that_a_killed_start_has_put_aside_comes_back(copied):
    (copied / "config.yaml").rename(copied / ".config.yaml.before")
    weights = f"train.init_checkpoint={copied}/model_final.pth"
    main(arguments(copied, weights, "optimizer.lr=7", eval_only=True))
    assert saved_config(copied).optimizer.lr == 0.01


def test_a_config_of_a_refused_start_is_forgotten(copied):
    with pytest.raises(UnfittingCheckpointError):
        main(arguments(copied, "model.model.width=9", "train.max_iter=6", resume=True))
    for path in copied.iterdir():
        if not path.name.startswith("."):
            path.unlink()
    main(arguments(copied, "train.max_iter=2", "optimizer.lr=0.03"))
    assert saved_config(copied).optimizer.lr == 0.03


def test_two_processes_do_not_train_in_one_folder(copied):
    fork = mp.get_context("fork")
    claims, done = fork.Event(), fork.Event()

    def hold():
        with claimed(str(copied)):
            claims.set()
            done.wait(60)

    other = fork.Process(target=hold)
    other.start()
    try:
        assert claims.wait(60)
        before = files(copied)
        with pytest.raises(FileExistsError, match="another process is training there"):
            resume(copied, "optimizer.lr=7")
        for trace in ("last_checkpoint", "metrics.json"):  # as if it had just begun
            (copied / trace).unlink()
        for path in copied.glob("model_*"):
            path.unlink()
        with pytest.raises(FileExistsError, match="another process is training there"):
            main(arguments(copied, "train.seed=-1", "optimizer.lr=7"))
        after = files(copied)
        assert after == {name: before[name] for name in after}
        for name in set(before) - set(after):
            (copied / name).write_bytes(before[name])
    finally:
        done.set()
        other.join()
    resume(copied)  # its claim has ended with it
    assert len(losses(copied)) == 6


# ---------------------------------------------------------------- nothing to do


def test_a_finished_run_says_so_and_does_nothing(copied):
    before = files(copied)
    said = [resumed(copied, f"train.max_iter={n}") for n in (4, 3)]
    text = "Nothing to do: 4 of {} iterations are done. Raise train.max_iter to train on"
    assert text.format(4) in said[0] and text.format(3) in said[1]
    for name in ("model_final.pth", "metrics.json", "losses.txt", "evaluations.txt"):
        assert files(copied)[name] == before[name], name


def test_a_run_killed_in_its_last_evaluation_is_evaluated(copied):
    rows = (copied / "metrics.json").read_text().splitlines(keepends=True)
    (copied / "metrics.json").write_text("".join(r for r in rows if "bbox/AP" not in r))
    results = main(arguments(copied, CONSTANT, "train.max_iter=4", resume=True))
    assert results["bbox"]["AP"] > 0
    assert evaluations(copied) == [4]
    assert len(losses(copied)) == 4


def test_no_iterations_train_nothing(tmp_path):
    assert main(arguments(tmp_path, "train.max_iter=0")) == {}
    assert "Nothing to do: 0 of 0 iterations" in log(tmp_path)


# ---------------------------------------------------------------- evaluation of the last checkpoint


def test_evaluation_alone_with_resume_takes_the_last_checkpoint(copied, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "co_detr.engine.train.do_test",
        lambda cfg, model: seen.append({k: v.clone() for k, v in model.state_dict().items()}),
    )
    main(arguments(copied, resume=True, eval_only=True))
    # a run that also averages evaluates its averaged weights, but this one has none yet
    main(arguments(copied, *EMA, resume=True, eval_only=True))
    state = load(copied / "model_final.pth")
    state["ema"] = {f"module.{k}": 2 * v for k, v in state["model"].items()} | {
        "n_averaged": torch.tensor(4)
    }
    torch.save(state, copied / "model_final.pth")
    main(arguments(copied, *EMA, resume=True, eval_only=True))
    for found, factor in zip(seen, (1, 1, 2), strict=True):
        for name, value in found.items():
            assert torch.equal(value, factor * state["model"][name]), name


def test_evaluation_alone_with_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint in train.output_dir={tmp_path}"):
        main(arguments(tmp_path, resume=True, eval_only=True))


def test_evaluation_alone_may_write_into_the_folder_of_a_run(copied):
    weights = f"train.init_checkpoint={copied}/model_final.pth"
    assert main(arguments(copied, weights, eval_only=True))["bbox"]["AP"] > 0


def test_a_start_may_be_repeated_in_a_new_folder_by_the_saved_config(copied, tmp_path):
    saved = os.path.join(copied, "config.yaml")
    main(arguments(tmp_path / "again", config=saved))
    assert trainer_state(tmp_path / "again")["facts"] == trainer_state(copied)["facts"]
