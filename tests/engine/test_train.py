"""Jobs from the config to the files they leave: interrupted, resumed, evaluated, distributed."""

import json
import math
import signal
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.utils.events import EventStorage
from jobs import CO_DETR, TOY, arguments, assert_same_run, command, in_a_process, losses
from omegaconf import OmegaConf

import co_detr
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.checkpoint.reading import DamagedCheckpointError
from co_detr.engine import main
from co_detr.engine.hooks import PeakMemory
from co_detr.engine.overrides import new_keys
from co_detr.engine.train import detections_kept
from co_detr.evaluation.evaluators import COCOEvaluator, LVISEvaluator

UNBUILDABLE = "model.model.no_such_argument=1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_process(arguments(folder)) == 0
    return folder


def test_the_whole_run_uses_every_image_and_its_losses_differ(whole):
    seen = losses(whole)
    assert sorted(seen) == list(range(12))
    assert all(len(lines) == 1 for lines in seen.values())
    lines = [next(iter(seen[i])).split() for i in range(12)]
    assert {int(i) for _, ids, *_ in lines for i in ids.split(",")} == set(range(11))
    assert len({loss for *_, loss, _ in lines}) == 12


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("death", ["kill_at=1", "kill_at=7", "kill_in_save=5", "kill_in_save=8"])
def test_a_killed_run_resumes_as_if_nothing_had_happened(tmp_path, whole, death, workers):
    workers = f"dataloader.train.num_workers={workers}"
    code = in_a_process(arguments(tmp_path, f"model.{death}", workers))
    assert code == -signal.SIGKILL
    assert not (tmp_path / "model_final.pth").exists()
    assert in_a_process(arguments(tmp_path, workers, resume=True)) == 0
    assert_same_run(tmp_path, whole)


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path):
    in_a_process(arguments(tmp_path, "model.kill_in_save=5"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (tmp_path / "model_0000005.pth").exists()


BEFORE_EVALUATION = "train.checkpointer.period=4"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path, whole, signum):
    end = ["model.signal_at=evaluation", f"model.signum={signum.value}"]
    assert in_a_process(arguments(tmp_path, BEFORE_EVALUATION, *end)) != 0
    assert not (tmp_path / "model_best.pth").exists()
    assert in_a_process(arguments(tmp_path, BEFORE_EVALUATION, resume=True)) == 0
    assert_same_run(tmp_path, whole)
    assert evaluations(tmp_path) == evaluations(whole) == {3: 10.0, 7: 30.0, 12: 20.0}
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (best["iteration"], best["value"]) == (7, 30.0)


@pytest.mark.parametrize("death", ["kill_at=4", "kill_at=8"])
def test_an_evaluation_that_was_finished_is_not_repeated(tmp_path, death):
    in_a_process(arguments(tmp_path, BEFORE_EVALUATION, f"model.{death}"))
    assert in_a_process(arguments(tmp_path, BEFORE_EVALUATION, resume=True)) == 0
    assert (tmp_path / "evaluations.txt").read_text() == "xxx"


def test_a_finished_evaluation_before_a_later_one_is_not_repeated(tmp_path):
    often = ["train.eval_period=2", "train.checkpointer.period=4"]
    in_a_process(arguments(tmp_path, *often, "model.kill_at=7"))  # resumed from iteration 4
    assert (tmp_path / "last_evaluation").read_text() == "6"
    assert in_a_process(arguments(tmp_path, *often, resume=True)) == 0
    # after 2, 4, 6 iterations, then 6, 8, 10, 12
    assert len((tmp_path / "evaluations.txt").read_text()) == 7


def evaluations(folder):
    """{iteration: AP}"""
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {row["iteration"]: row["bbox/AP"] for row in rows if "bbox/AP" in row}


def test_a_run_with_a_random_seed_resumes_with_that_seed(tmp_path):
    overrides = ["train.seed=-1"]
    in_a_process(arguments(tmp_path / "cut", *overrides, "model.kill_at=5"))
    seed = (tmp_path / "cut" / "seed.txt").read_text()
    weights = f"train.init_checkpoint={tmp_path}/cut/model_0000002.pth"
    in_a_process(arguments(tmp_path / "cut", *overrides, weights, eval_only=True))
    in_a_process(arguments(tmp_path / "cut", *overrides, resume=True))
    assert (tmp_path / "cut" / "seed.txt").read_text() == seed
    in_a_process(arguments(tmp_path / "whole", f"train.seed={seed}"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_the_seed_decides_the_run(tmp_path, whole):
    in_a_process(arguments(tmp_path, "train.seed=4"))
    assert losses(tmp_path) != losses(whole)


def test_only_the_newest_checkpoints_stay_also_over_an_interruption(tmp_path):
    in_a_process(arguments(tmp_path, "model.kill_at=7"))
    in_a_process(arguments(tmp_path, resume=True))
    names = sorted(path.name for path in tmp_path.glob("model_0*.pth"))
    assert names == ["model_0000008.pth", "model_0000011.pth"]
    assert not list(tmp_path.glob(".*.partial")), "partial files were left behind"


def test_metrics_of_a_resumed_run_have_every_iteration_once(tmp_path, whole):
    def iterations(folder):
        rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        return [row["iteration"] for row in rows if "total_loss" in row]

    in_a_process(arguments(tmp_path, "model.kill_at=8"))
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 7, "tot')  # as if killed while writing
    in_a_process(arguments(tmp_path, resume=True))
    assert iterations(tmp_path) == iterations(whole) == [1, 3, 5, 7, 9, 11]


def test_the_best_checkpoint_is_kept_beside_the_last_one(whole):
    best = torch.load(whole / "model_best.pth", weights_only=True)
    assert (best["metric"], best["value"], best["iteration"]) == ("bbox/AP", 30.0, 7)
    assert (whole / "last_checkpoint").read_text() == "model_final.pth"


def test_the_best_checkpoint_is_not_what_a_run_resumes_from(tmp_path):
    # evaluations: 30 after iteration 3 (saved as best), then the run dies
    values = "dataloader.evaluator.values=[30.0,10.0]"
    in_a_process(arguments(tmp_path, values, "model.kill_at=5"))
    assert (tmp_path / "model_best.pth").exists()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_the_best_result_is_remembered_over_an_interruption(tmp_path):
    values = "dataloader.evaluator.values=[30.0,10.0]"
    in_a_process(arguments(tmp_path, values, "model.kill_at=7"))
    in_a_process(arguments(tmp_path, values, resume=True))
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (best["value"], best["iteration"]) == (30.0, 3)


def test_evaluation_runs_every_period_and_at_the_end(whole):
    rows = [json.loads(line) for line in (whole / "metrics.json").read_text().splitlines()]
    found = [(row["iteration"], row["bbox/AP"]) for row in rows if "bbox/AP" in row]
    assert found == [(3, 10.0), (7, 30.0), (12, 20.0)]


def test_the_log_begins_with_the_detectron2_in_use_and_tells_the_remaining_time(whole):
    lines = (whole / "log.txt").read_text().splitlines()
    assert co_detr.detectron2_origin() in lines[0]
    assert any("eta: " in line and "  toy: " in line for line in lines)


def test_the_log_warns_of_overrides_that_create_keys(tmp_path):
    misspelt = ["train.max_itr=3", "modle.nan_at=4", "train.ema.decai=0.5", "train.log_period.x=1"]
    meant = ["+train.note=mine", "train.max_iter=0", "train.checkpointer={period: 5}"]
    called = ["model.unknown=1"]  # the call itself complains
    cfg = LazyConfig.load(TOY)
    warnings = new_keys(cfg, [*misspelt, *meant, *called])
    assert [warning.split(":")[0] for warning in warnings] == misspelt[:3]
    assert "no key 'train.max_itr'" in warnings[0] and "known keys: max_iter" in warnings[0]
    assert "no key 'modle'" in warnings[1] and "known keys: model." in warnings[1]
    assert "no key 'train.ema.decai'" in warnings[2] and "known keys: decay." in warnings[2]

    main(arguments(tmp_path, "train.max_iter=1", "train.evl_period=1"))
    assert "no key 'train.evl_period'" in (tmp_path / "log.txt").read_text()


def test_training_writes_tensorboard_events(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole))
    events.Reload()
    assert {"total_loss", "toy/loss_box", "toy/accuracy", "lr", "bbox/AP"} <= set(
        events.Tags()["scalars"]
    )


def test_evaluation_alone_loads_the_weights_and_returns_the_results(tmp_path, whole):
    weights = f"train.init_checkpoint={whole}/model_final.pth"
    results = main(arguments(tmp_path, weights, eval_only=True))
    assert results == {"bbox": {"AP": 10.0}}
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"bbox/AP": 10.0}
    assert not (tmp_path / "losses.txt").exists()


@pytest.mark.parametrize(
    "evaluator, kept",
    [
        (L(COCOEvaluator)(dataset_name="a"), "out"),
        (L(LVISEvaluator)(dataset_name="a"), "out"),
        (L(COCOEvaluator)(dataset_name="a", output_dir="own"), "own"),
        (L(EventStorage)(), None),
        (None, None),
    ],
)
def test_evaluation_alone_keeps_the_detections(evaluator, kept):
    cfg = OmegaConf.create({"train": {"output_dir": "out"}, "dataloader": {"evaluator": evaluator}})
    detections_kept(cfg)
    assert (cfg.dataloader.evaluator or {}).get("output_dir") == kept


def test_the_most_memory_so_far_is_logged_in_mib(monkeypatch):
    hook = PeakMemory()
    hook.trainer = SimpleNamespace(storage=EventStorage())
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 3 * 2**20)
    hook.after_step()
    assert hook.trainer.storage.latest()["max_memory"] == (3.0, 0)


def test_training_returns_the_last_results(tmp_path):
    assert main(arguments(tmp_path, "train.max_iter=5"))["bbox"]["AP"] == 30.0


def test_a_loss_that_is_not_finite_stops_with_its_name_and_iteration(tmp_path):
    with pytest.raises(FloatingPointError, match=r"^toy/loss_box is nan at iteration=4;"):
        main(arguments(tmp_path, "model.nan_at=4"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_a_run_can_do_without_evaluation(tmp_path):
    assert main(arguments(tmp_path, "dataloader.evaluator=null", "train.max_iter=3")) == {}
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize("none", ["null", "None"])
def test_a_run_can_do_without_a_validation_set(tmp_path, none):
    overrides = [f"dataloader.test={none}", "train.max_iter=5"]
    assert main(arguments(tmp_path, *overrides)) == {}
    assert not (tmp_path / "model_best.pth").exists()
    assert (tmp_path / "model_final.pth").exists()
    assert (tmp_path / "log.txt").read_text().count("nothing is evaluated") == 1


def test_a_finished_run_can_be_prolonged(tmp_path, whole):
    # the schedule depends on the length of the run, so the rate is held constant
    constant = ["lr_multiplier.end_value=1.0"]
    main(arguments(tmp_path / "parts", *constant, "train.max_iter=5"))
    main(arguments(tmp_path / "parts", *constant, "train.max_iter=9", resume=True))
    main(arguments(tmp_path / "whole", *constant, "train.max_iter=9"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_reduced_precision_needs_cuda(tmp_path):
    with pytest.raises(ValueError, match="train.amp.enabled needs a CUDA device"):
        main(arguments(tmp_path, "train.amp.enabled=True"))


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'float8' is none of"):
        main(arguments(tmp_path, "train.amp.enabled=True", "train.amp.dtype=float8"))


def test_a_missing_dataset_is_reported_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        main(
            arguments(
                tmp_path / "out",
                "+dataloader.test.dataset.names=coco_2017_val",
                UNBUILDABLE,
            )
        )
    assert not (tmp_path / "out" / "losses.txt").exists()


def test_weights_that_do_not_fit_are_not_evaluated(tmp_path, whole):
    state = torch.load(whole / "model_final.pth", weights_only=True)["model"]
    del state["model.layers.3.bias"]
    torch.save({"model": state}, tmp_path / "lacking.pth")
    weights = f"train.init_checkpoint={tmp_path / 'lacking.pth'}"
    with pytest.raises(UnfittingCheckpointError, match=r"it \(1\): model\.layers\.3\.bias"):
        main(arguments(tmp_path / "out", weights, eval_only=True))
    main(arguments(tmp_path / "out", weights, "train.max_iter=1"))  # but trained further


def test_damaged_weights_are_found_before_anything_is_built(tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04" + bytes(9))
    weights = f"train.init_checkpoint={tmp_path / 'cut.pth'}"
    for eval_only in (False, True):
        with pytest.raises(DamagedCheckpointError, match="cut off"):
            main(arguments(tmp_path / "out", weights, UNBUILDABLE, eval_only=eval_only))


def test_no_config_object_gets_into_a_checkpoint(whole):
    # betas come from the config as its own kind of list; loading allows plain values only
    state = torch.load(whole / "model_final.pth", weights_only=True)
    assert state["trainer"]["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.9)


# ---------------------------------------------------------------- averaged weights

EMA = ["train.ema.enabled=True", "train.ema.decay=0.75"]


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("start, first", [(0, 0), (1, 0), (2, 1)])
def test_averaged_weights_start_as_the_first_ones_and_follow_by_the_decay(tmp_path, start, first):
    keep_all = ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=9"]
    main(arguments(tmp_path, *EMA, f"train.ema.start={start}", *keep_all, "train.max_iter=3"))
    weights = [
        load(tmp_path / f"model_000000{i}.pth")["model"]["model.layers.0.weight"] for i in range(3)
    ]
    expected = weights[first]
    for later in weights[first + 1 :]:
        expected = 0.75 * expected + 0.25 * later
    average = load(tmp_path / "model_final.pth")["ema"]["module.model.layers.0.weight"]
    assert torch.allclose(average, expected, atol=1e-7)
    assert not torch.allclose(average, weights[2], atol=1e-4)
    # the evaluated weights are the averaged ones
    for name in ("model_final_ema.pth", "model_best.pth"):
        assert torch.equal(load(tmp_path / name)["model"]["model.layers.0.weight"], average), name


def test_all_checkpoints_carry_the_names_of_the_classes_and_the_card(tmp_path, monkeypatch):
    classes = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}]
    monkeypatch.setattr("co_detr.engine.train.categories_of_config", lambda cfg: classes)
    main(arguments(tmp_path, *EMA, "train.max_iter=1"))
    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        saved = load(tmp_path / name)
        assert saved["class_names"] == ["cat", "dog"], name
        card = saved["model_card"]
        assert (card["categories"], card["co_detr"]) == (classes, co_detr.__version__)
        # what another section said is written out
        assert f"log: {tmp_path}/losses.txt" in card["config"]
        assert "_target_: toy.Net" in card["config"]


def test_averages_cannot_start_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="train.ema.start=-1 must be at least 0"):
        main(arguments(tmp_path, *EMA, "train.ema.start=-1"))


@pytest.mark.parametrize("start", [0, 8])
def test_averaged_weights_survive_an_interruption(tmp_path, whole, start):
    ema = [*EMA, f"train.ema.start={start}"]
    main(arguments(tmp_path / "whole", *ema))
    in_a_process(arguments(tmp_path / "cut", *ema, "model.kill_at=7"))
    in_a_process(arguments(tmp_path / "cut", *ema, resume=True))
    assert losses(tmp_path / "cut") == losses(whole), "averaging changed the training"
    averages = [load(tmp_path / run / "model_final_ema.pth")["model"] for run in ("cut", "whole")]
    for name, weight in averages[0].items():
        assert torch.equal(weight, averages[1][name]), name


# ---------------------------------------------------------------- the command line


def test_a_killed_command_resumes(tmp_path, whole):
    assert command(tmp_path, "model.kill_at=7").returncode == -signal.SIGKILL
    job = command(tmp_path, "--resume")
    assert job.returncode == 0, job.stderr
    assert_same_run(tmp_path, whole)


def test_the_saved_config_repeats_the_run(whole):
    saved = LazyConfig.load(str(whole / "config.yaml"))
    assert saved.train.max_iter == 12 and saved.train.seed == 3


# ---------------------------------------------------------------- Co-DETR itself


def test_a_killed_run_of_co_detr_resumes_as_if_nothing_had_happened(tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert in_a_process(arguments(whole, config=CO_DETR)) == 0
    code = in_a_process(arguments(cut, "model.kill_at=3", config=CO_DETR))
    assert code == -signal.SIGKILL
    assert in_a_process(arguments(cut, config=CO_DETR, resume=True)) == 0
    assert len(losses(cut)) == 6
    assert_same_run(cut, whole)


def ranks_of(output_dir):
    """For every iteration, what the two ranks wrote: (images, boxes, loss, weight) each."""
    for _, lines in sorted(losses(output_dir).items()):
        (rank0, *first), (rank1, *second) = sorted(line.split() for line in lines)
        assert (rank0, rank1) == ("0", "1")
        yield first, second


def test_two_processes_train_co_detr_while_one_of_them_has_no_box(tmp_path):
    job = command(tmp_path, "--num-gpus", "2", config=CO_DETR)
    assert job.returncode == 0, job.stderr
    pairs = list(ranks_of(tmp_path))
    assert len(pairs) == 6
    for (ids0, _, loss0, weight0), (ids1, _, loss1, weight1) in pairs:
        assert ids0 != ids1 and loss0 != loss1
        assert math.isfinite(float.fromhex(loss0)) and math.isfinite(float.fromhex(loss1))
        assert weight0 == weight1, "the ranks drifted apart"
    boxes = [(int(first[1]), int(second[1])) for first, second in pairs]
    assert any(min(pair) == 0 < max(pair) for pair in boxes), boxes

    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    logged = {row["iteration"]: row for row in rows if "total_loss" in row}
    # the first logged value is the median of two iterations, which is their mean
    means = [(float.fromhex(a[2]) + float.fromhex(b[2])) / 2 for a, b in pairs[:2]]
    assert logged[1]["total_loss"] == pytest.approx(sum(means) / 2, rel=1e-5)
