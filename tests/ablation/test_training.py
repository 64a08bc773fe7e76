"""Runs are completed, continued and kept apart; nothing is trained here, a stub stands in."""

import json
import os
import signal
import threading
import time

import pytest
from toy_runs import CONFIG, STUB

from co_detr.ablation.runs import ForeignRunError, check_folder, remember
from co_detr.ablation.tables import Evaluation
from co_detr.ablation.training import Failure, Runner, lock_folder, remaining_seconds
from co_detr.arguments import config_path
from co_detr.engine.signals import Interrupted


@pytest.fixture
def complete():
    """Complete runs with the stub; returns what was said, and the failures."""

    def work(runs, **options):
        said = []
        runs = runs if isinstance(runs, dict) else {run: [] for run in runs}
        runner = Runner(runs, launcher=STUB, say=said.append, poll=0.01, **options)
        runner.work()
        return said, runner.failures

    return work


def commands(folder):
    return (folder / "commands.txt").read_text().splitlines()


def test_a_training_gets_its_folder_its_seed_and_its_changes(complete, make_run):
    run = make_run(seed=3)
    said, failures = complete([run])
    assert run.is_complete() and failures == {}
    assert said[0] == "model/seed3: trains from iteration 0 to 4"
    assert "model/seed3: complete after 0:00:0" in said[1]
    assert "1 of 1 runs complete, 0 running, 0 iterations left, eta: 0:00:00" in said[1]
    (command,) = commands(run.folder)
    words = command.split(" on ")[0].split()
    assert words[1:] == [
        *("-m", "co_detr.engine", "--config-file", config_path(CONFIG), "--resume"),
        *(f"train.output_dir={run.folder}", "train.seed=3", "train.max_iter=4"),
    ]
    settings = json.loads((run.folder / "run.json").read_text())
    assert settings == {"config": CONFIG, "seed": 3, "train.max_iter": 4}


def test_what_is_complete_is_left_as_it_is(complete, make_run):
    run = make_run()
    complete([run])
    for name in (".lock", "run.json"):
        (run.folder / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    assert complete([run]) == ([], {})
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == before


def test_weights_are_evaluated_in_further_ways_once(complete, make_run):
    run, evaluation = make_run(), Evaluation("atss", ("model.eval_branch=atss",))
    said, _ = complete({run: [evaluation]})
    assert said[1] == "model/seed0: evaluates atss"
    folder = run.folder / "evaluations" / "atss"
    (command,) = commands(folder)
    assert command.split(" on ")[0].split()[5:] == [
        *("--eval-only", f"train.output_dir={folder}", "train.seed=0"),
        *(f"train.init_checkpoint={run.folder}/model_final.pth", "train.max_iter=4"),
        "model.eval_branch=atss",
    ]
    assert complete({run: [evaluation]}) == ([], {})
    more = Evaluation("rcnn", ("model.eval_branch=rcnn",))
    said, _ = complete({run: [evaluation, more]})
    assert said[0] == "model/seed0: evaluates rcnn" and len(commands(run.folder)) == 1


def test_a_run_that_fails_names_its_log_and_stops_no_other(complete, make_run, monkeypatch):
    monkeypatch.setenv("STUB_FAILS", "train.seed=1")
    runs = [make_run(seed) for seed in range(3)]
    said, failures = complete(runs)
    assert [run.is_complete() for run in runs] == [True, False, True]
    log = runs[1].folder / "console.txt"
    message = f"failed (exit code 1) when it trains from iteration 0 to 4, see {log}"
    assert [(run, str(error)) for run, error in failures.items()] == [(runs[1], message)]
    assert isinstance(failures[runs[1]], Failure)
    assert f"model/seed1: {message}" in said and "no memory" in log.read_text()
    assert "2 of 3 runs complete, 0 running, 1 failed, 0 iterations left" in said[-1]


@pytest.mark.parametrize("in_the_way", ["model", "model/seed1/run.json/x"])
def test_a_run_whose_folder_cannot_be_used_stops_no_other(complete, make_run, in_the_way):
    """A file where the folders belong, a folder where a file belongs."""
    runs = [make_run(0, name="other"), make_run(1), make_run(2, name="other")]
    path = runs[1].folder.parents[1] / in_the_way
    path.parent.mkdir(parents=True)
    path.touch()
    said, failures = complete(runs)
    assert [run.is_complete() for run in runs] == [True, False, True]
    (error,) = failures.values()
    assert isinstance(error, OSError) and str(runs[1].folder) in str(error)
    assert f"model/seed1: {error}" in said


def test_whatever_ends_the_work_ends_the_processes(make_run, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.05")
    runs = [make_run(seed, iterations=1000) for seed in range(2)]

    def say(line):
        if "seed1" in line:  # whose process has begun
            while not all(run.metrics.exists() for run in runs):
                time.sleep(0.01)
            raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        Runner({run: [] for run in runs}, launcher=STUB, jobs=2, say=say, poll=0.01).work()
    for run in runs:
        assert (run.folder / "last_checkpoint").exists()
        lock_folder(run.folder).close()  # is free


def test_a_process_that_leaves_no_result_has_failed(complete, make_run):
    run = make_run()
    runner = Runner({run: []}, launcher="true", say=lambda line: None, poll=0.01)
    runner.work()
    assert "failed (no result)" in str(runner.failures[run])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_runs_with_a_checkpoint_and_they_continue(
    complete, make_run, monkeypatch, signum
):
    monkeypatch.setenv("STUB_SECONDS", "0.05")
    runs = [make_run(seed, iterations=1000) for seed in range(3)]

    def interrupt():
        while not all((run.folder / "metrics.json").exists() for run in runs[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted) as stopped:
        complete(runs, jobs=2)
    thread.join()
    assert stopped.value.code == 128 + signum
    assert "0 of 3 runs complete" in stopped.value.outcome and "--resume" in stopped.value.outcome
    assert [(run.folder / "last_checkpoint").exists() for run in runs] == [True, True, False]

    monkeypatch.delenv("STUB_SECONDS")
    done = runs[0].iterations_done()
    assert 0 < done < 1000
    said, failures = complete(runs, jobs=2)
    assert said[0] == f"model/seed0: trains from iteration {done} to 1000"
    assert failures == {} and all(run.is_complete() for run in runs)
    iterations = [json.loads(line)["iteration"] for line in open(runs[0].metrics)]
    assert iterations == list(range(1001))


def test_a_folder_that_another_process_works_in_has_to_wait(make_run):
    first, second = make_run(0), make_run(1)
    lock = lock_folder(first.folder)
    said = []

    def say(line):
        said.append(line)
        if "seed1: complete" in line:
            lock.close()

    Runner({first: [], second: []}, launcher=STUB, say=say, poll=0.01).work()
    assert said[0] == "model/seed0: another process works at it, it has to wait"
    assert said[1].startswith("model/seed1") and first.is_complete()
    assert sum("has to wait" in line for line in said) == 1


def test_a_training_keeps_its_folder_when_its_starter_is_gone(make_run, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.05")
    run = make_run(iterations=1000)
    starter = os.fork()
    if not starter:
        Runner({run: []}, launcher=STUB, say=lambda line: None, poll=0.01).work()
        os._exit(0)
    while not run.metrics.exists():
        time.sleep(0.01)
    os.kill(starter, signal.SIGKILL)
    os.waitpid(starter, 0)
    assert lock_folder(run.folder) is None
    pid = next(
        int(p)
        for p in os.listdir("/proc")
        if p.isdigit() and f"train.output_dir={run.folder}".encode() in _command_line(p)
    )
    os.kill(pid, signal.SIGTERM)
    while lock_folder(run.folder) is None:
        time.sleep(0.01)
    assert (run.folder / "last_checkpoint").exists()


def _command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_each_place_has_a_gpu_of_its_own(complete, make_run, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.1")
    runs = [make_run(seed) for seed in range(3)]
    complete(runs, jobs=3, gpus=["2", "5"])
    devices = [commands(run.folder)[0].split(" on ")[1] for run in runs]
    assert devices == ["2", "5", "2"]


def test_another_run_in_the_folder_is_refused_with_what_differs(complete, make_run):
    run = make_run(iterations=4)
    complete([run])
    check_folder(run)
    other = make_run(iterations=8)
    with pytest.raises(ForeignRunError, match=r"train.max_iter is 4 there, 8 here\)"):
        check_folder(other)
    other.weights.unlink()
    said, failures = complete([other])
    assert isinstance(failures[other], ForeignRunError) and len(said) == 1
    assert json.loads((run.folder / "run.json").read_text())["train.max_iter"] == 4
    remember(other)
    check_folder(other)


def test_remaining_time_is_that_of_what_is_left_at_the_rate_so_far():
    assert remaining_seconds(left=300, worked=100, seconds=50.0) == 150.0
    assert remaining_seconds(left=300, worked=0, seconds=50.0) is None
    assert remaining_seconds(left=300, worked=-20, seconds=50.0) is None  # back to a checkpoint
    assert remaining_seconds(left=0, worked=0, seconds=1.0) == 0.0
