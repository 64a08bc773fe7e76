"""Options of a training: frozen parts, early stop, scaled learning rates, periods of 0, devices."""

import json

import pytest
import torch
from jobs import arguments, in_a_process, in_two_processes, losses
from torch import nn

from co_detr.engine import main
from co_detr.engine.checkpoint import WholeFileCheckpointer
from co_detr.engine.early_stop import num_without_progress
from co_detr.engine.freezing import KeepFrozen, freeze
from co_detr.engine.hooks import PeriodicCheckpointer

KEEP_ALL = "train.checkpointer.max_to_keep=0"


def load(path):
    return torch.load(path, weights_only=True)


def log(folder):
    return (folder / "log.txt").read_text()


# ---------------------------------------------------------------- frozen parts


def model():
    def part():
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

    return nn.ModuleDict({"backbone": part(), "backbone2": part(), "head": part()})


def trained(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "names, left",
    [
        ("backbone", {"backbone2.0", "backbone2.1", "head.0", "head.1"}),
        (["backbone", "head.0"], {"backbone2.0", "backbone2.1", "head.1"}),
        (["backbone*", "head.0"], {"head.1"}),
        (["*.1"], {"backbone.0", "backbone2.0", "head.0"}),
        ([], {f"{part}.{i}" for part in ("backbone", "backbone2", "head") for i in (0, 1)}),
    ],
)
def test_parts_are_frozen_by_name(names, left):
    net = model()
    freeze(net, names)
    assert {name.rpartition(".")[0] for name in trained(net)} == left


def test_single_parameters_are_frozen_by_name():
    net = model()
    assert freeze(net, ["head.0.bias"]) == []
    assert "head.0.weight" in trained(net) and "head.0.bias" not in trained(net)


def test_a_name_that_nothing_has_is_refused_with_close_ones():
    with pytest.raises(ValueError, match=r"called 'backbon'\. .*: backbone, backbone2"):
        freeze(model(), ["backbon"])
    with pytest.raises(ValueError, match=r"called 'xyz'\. .*: backbone, backbone2, head$"):
        freeze(model(), ["xyz"])
    # a part without parameters is a slip of the pen, too
    with pytest.raises(ValueError, match="with parameters is called 'head.2'"):
        freeze(model(), ["head.2"])


def test_something_must_be_left_to_train():
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(model(), ["*"])


def test_frozen_parts_stay_in_evaluation_mode():
    net = model()
    hook = KeepFrozen(freeze(net, ["backbone"]))
    net.train()
    hook.before_step()
    assert not net["backbone"][1].training and not net["backbone"][2].training
    assert net["head"][2].training and net.training


def test_a_run_trains_all_but_the_frozen_parts(tmp_path):
    often = ["train.checkpointer.period=1", "train.eval_period=1", "train.max_iter=3"]
    main(arguments(tmp_path, "train.freeze=[model.layers.0]", *often, KEEP_ALL))
    first, last = (load(tmp_path / f"model_000000{i}.pth") for i in (0, 2))
    for name, weight in first["model"].items():
        same = torch.equal(weight, last["model"][name])
        assert same == name.startswith("model.layers.0."), name
    assert last["trainer"]["parameters"] == [["model.layers.3.weight", "model.layers.3.bias"]]
    assert "Frozen: model.layers.0, 2 parameters of 40 values" in log(tmp_path)


# ---------------------------------------------------------------- early stop


def test_results_are_counted_from_the_first_best_one():
    def count(*values, mode="max"):
        return num_without_progress(list(enumerate(values)), mode)

    assert count() == 0 and count(1.0) == 0 and count(1.0, 2.0) == 0
    assert count(3.0, 2.0, 3.0) == 2  # as good is not better
    assert count(1.0, 3.0, 2.0, 4.0, 1.0) == 1
    assert count(3.0, 2.0, 1.0, mode="min") == 0 and count(1.0, 2.0, mode="min") == 1
    assert count(float("nan"), float("nan")) == 2 and count(float("nan"), 1.0) == 0


# an evaluation after every second iteration
STOP = ["train.early_stop.patience=2", "train.eval_period=2", "train.max_iter=20"]
VALUES = "dataloader.evaluator.values=[10.0,30.0,20.0,30.0,40.0]"


def test_training_stops_when_the_metric_has_not_improved(tmp_path):
    results = main(arguments(tmp_path, *STOP, VALUES))
    assert sorted(losses(tmp_path)) == list(range(8))
    assert results["bbox"]["AP"] == 30.0
    assert "Training has stopped early after 8 of 20 iterations" in log(tmp_path)
    assert "Exception during training" not in log(tmp_path)
    assert load(tmp_path / "model_final.pth")["iteration"] == 7
    assert load(tmp_path / "model_best.pth")["iteration"] == 3
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["bbox/AP"] for row in rows if "bbox/AP" in row] == [10.0, 30.0, 20.0, 30.0]

    main(arguments(tmp_path, *STOP, VALUES, resume=True))
    assert "Nothing to do: training has stopped early after 8 of 20" in log(tmp_path)
    assert len(losses(tmp_path)) == 8
    main(arguments(tmp_path, *STOP, VALUES, "train.early_stop.patience=3", resume=True))
    # 30, 20, 30, then 40, and 40 three times over
    assert sorted(losses(tmp_path)) == list(range(16))


def test_a_resumed_run_goes_on_counting(tmp_path):
    save = "train.checkpointer.period=1"
    # results of iterations after the checkpoint do not count: they come again
    for at in ("5", "7"):
        in_a_process(arguments(tmp_path, *STOP, VALUES, save, f"model.kill_at={at}", resume=True))
    main(arguments(tmp_path, *STOP, VALUES, save, resume=True))
    assert sorted(losses(tmp_path)) == list(range(8))


def test_a_checkpoint_that_somebody_removed_does_not_end_the_saving_of_another(tmp_path):
    model = nn.Linear(1, 1)
    checkpointer = WholeFileCheckpointer(model, str(tmp_path))
    saver = PeriodicCheckpointer(checkpointer, 1, max_to_keep=1)
    saver.save_now(3)
    (tmp_path / "model_0000003.pth").unlink()
    saver.save_now(4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


def test_early_stop_needs_evaluations(tmp_path):
    for lacking in ("train.eval_period=0", "dataloader.evaluator=null"):
        with pytest.raises(ValueError, match="patience=2 counts evaluations, but there are none"):
            main(arguments(tmp_path, *STOP, lacking))


def test_all_processes_stop_together(tmp_path):
    never_better = "dataloader.evaluator.values=[10.0]"
    assert in_two_processes(arguments(tmp_path, *STOP, never_better)) == [0, 0]
    assert sorted(losses(tmp_path)) == list(range(6))
    assert all(len(lines) == 2 for lines in losses(tmp_path).values())


# ---------------------------------------------------------------- learning rates


def test_learning_rates_are_scaled_to_the_batch_on_request(tmp_path):
    batch = "dataloader.train.total_batch_size=4"
    main(arguments(tmp_path / "scaled", batch, "train.reference_batch_size=16", "train.max_iter=1"))
    main(arguments(tmp_path / "plain", batch, "train.max_iter=1"))
    rates = [
        load(tmp_path / name / "model_final.pth")["trainer"]["optimizer"]["param_groups"][0]
        for name in ("scaled", "plain")
    ]
    assert [rate["initial_lr"] for rate in rates] == [0.0025, 0.01]
    assert "Learning rate 0.01 x 4 / 16 images = 0.0025" in log(tmp_path / "scaled")
    # the saved config holds the rate before scaling, so that it gives the same run again
    assert "lr: 0.01" in (tmp_path / "scaled" / "config.yaml").read_text()


def test_a_reference_must_be_a_number_of_images(tmp_path):
    with pytest.raises(ValueError, match="train.reference_batch_size=-16 must be positive"):
        main(arguments(tmp_path, "train.reference_batch_size=-16"))


# ---------------------------------------------------------------- accumulation in a job


def test_a_killed_run_with_accumulation_resumes_as_if_nothing_had_happened(tmp_path):
    options = ["train.accumulate=2", "dataloader.train.total_batch_size=4", "train.max_iter=6"]
    in_a_process(arguments(tmp_path / "cut", *options, "model.kill_at=4"))
    in_a_process(arguments(tmp_path / "cut", *options, resume=True))
    in_a_process(arguments(tmp_path / "whole", *options))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert all(len(lines) == 2 for lines in losses(tmp_path / "whole").values())  # two parts


@pytest.mark.parametrize("size, parts", [(0, 1), (2, 3)])
def test_batches_too_small_for_their_parts_are_refused_before_anything_is_built(
    tmp_path, size, parts
):
    options = [f"dataloader.train.total_batch_size={size}", f"train.accumulate={parts}"]
    with pytest.raises(ValueError, match=f"total_batch_size={size} images are too few"):
        main(arguments(tmp_path, *options, "model.model.no_such_argument=1"))


# ---------------------------------------------------------------- periods and devices


@pytest.mark.parametrize("never", ["0", "-1", "null"])
def test_no_period_means_never(tmp_path, never):
    periods = ["log_period", "eval_period", "checkpointer.period", "checkpointer.max_to_keep"]
    main(arguments(tmp_path, *(f"train.{p}={never}" for p in periods), "train.max_iter=4"))
    names = {path.name for path in tmp_path.glob("model_*.pth")}
    assert names == {"model_final.pth", "model_best.pth"}
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "total_loss" in row] == [3]
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [4]


def test_all_checkpoints_are_kept_where_no_number_is_given(tmp_path):
    main(arguments(tmp_path, "train.checkpointer.period=1", KEEP_ALL, "train.max_iter=4"))
    assert len(list(tmp_path.glob("model_000000?.pth"))) == 4


def test_a_gpu_that_is_not_there_is_replaced_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(arguments(tmp_path, "train.device=cuda", "train.max_iter=1"))
    assert "No GPU: on the CPU, instead of train.device=cuda" in log(tmp_path)


def test_a_start_says_nothing_of_scratch_or_the_future(tmp_path, recwarn):
    main(arguments(tmp_path, "train.max_iter=1"))
    assert "scratch" not in log(tmp_path)
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


# ---------------------------------------------------------------- what may be absent


@pytest.mark.parametrize("name", ["optimizer", "lr_multiplier", "model"])
def test_sections_that_are_null_are_missing(tmp_path, name):
    with pytest.raises(ValueError, match=f"has no {name}: define or import it"):
        main(arguments(tmp_path, f"{name}=null"))


def test_without_a_checkpointer_only_the_end_is_saved(tmp_path):
    main(arguments(tmp_path, "train.checkpointer=null"))
    assert [path.name for path in tmp_path.glob("model_0*")] == []
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize("absent", ["dataloader.evaluator=null", "dataloader.test=null"])
def test_evaluation_with_nothing_to_evaluate_is_an_error(tmp_path, absent):
    with pytest.raises(ValueError, match="nothing to evaluate: .*dataloader.test"):
        main(arguments(tmp_path, absent, eval_only=True))
