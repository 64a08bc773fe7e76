"""Jobs that are asked to end: when, by what exit code, and that they continue as if not."""

import ctypes
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from jobs import (
    arguments,
    assert_same_run,
    in_a_process,
    in_two_processes,
    losses,
)

from co_detr.engine import main, signals

TERM, INT, USR1, HUP = (int(getattr(signal, f"SIG{n}")) for n in ("TERM", "INT", "USR1", "HUP"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_process(arguments(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory):
    """The same in two processes."""
    folder = tmp_path_factory.mktemp("whole_of_two")
    assert in_two_processes(arguments(folder)) == [0, 0]
    return folder


@pytest.mark.parametrize("signum", [TERM, INT, USR1, HUP])
def test_a_signal_ends_the_run_after_the_step_and_it_resumes_exactly(tmp_path, whole, signum):
    # without the signal, iteration 3 would be followed by an evaluation
    code = in_a_process(arguments(tmp_path, "model.signal_at=3", f"model.signum={signum}"))
    assert code == 128 + signum
    assert sorted(losses(tmp_path)) == [0, 1, 2, 3]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (tmp_path / "model_final.pth").exists()
    assert not (tmp_path / "evaluations.txt").exists()
    log = (tmp_path / "log.txt").read_text()
    said = f"{signal.Signals(signum).name}: stopped after 4 of 12 iterations, which are saved in "
    assert f"{said}{tmp_path}/model_0000003.pth" in log and "--resume" in log
    assert in_a_process(arguments(tmp_path, resume=True)) == 0
    assert_same_run(tmp_path, whole)


def test_workers_that_get_the_signal_too_go_on_until_the_step_is_done(tmp_path, whole):
    workers = "dataloader.train.num_workers=2"
    for iteration, signum in [(2, TERM), (5, INT), (6, USR1)]:
        signalled = [f"model.signal_at={iteration}", f"model.signum={signum}"]
        args = arguments(tmp_path, workers, *signalled, "model.signal_to=group", resume=True)
        assert in_a_process(args) == 128 + signum
        assert max(losses(tmp_path)) == iteration
    assert in_a_process(arguments(tmp_path, workers, resume=True)) == 0
    assert_same_run(tmp_path, whole)


def test_checkpoints_of_interruptions_count_among_those_to_keep(tmp_path):
    for iteration in (3, 4, 6):
        in_a_process(arguments(tmp_path, f"model.signal_at={iteration}", resume=True))
    names = sorted(path.name for path in tmp_path.glob("model_0*.pth"))
    assert names == ["model_0000005.pth", "model_0000006.pth"]


def test_what_a_kill_left_of_a_checkpoint_is_removed_by_the_next_run(tmp_path):
    in_a_process(arguments(tmp_path, "model.kill_in_save=8"))
    assert (tmp_path / ".model_0000008.pth.partial").exists()
    in_a_process(arguments(tmp_path, "model.signal_at=6", resume=True))
    assert not list(tmp_path.glob(".*.partial"))


def test_evaluation_is_cut_short_and_its_results_are_dropped(tmp_path, whole):
    assert in_a_process(arguments(tmp_path, "model.signal_at=evaluation")) == 128 + TERM
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (tmp_path / "evaluations.txt").exists()
    assert "bbox" not in (tmp_path / "metrics.json").read_text()
    assert in_a_process(arguments(tmp_path, resume=True)) == 0
    assert_same_run(tmp_path, whole)


def test_a_signal_in_the_last_evaluation_leaves_a_finished_training(tmp_path):
    signalled = ["model.signal_at=evaluation", "train.max_iter=3"]
    assert in_a_process(arguments(tmp_path, *signalled)) == 128 + TERM
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not (tmp_path / "evaluations.txt").exists()
    assert main(arguments(tmp_path, "train.max_iter=3", resume=True))["bbox"]["AP"] == 10.0


def test_a_signal_to_an_evaluation_alone_ends_it(tmp_path, whole):
    weights = [f"train.init_checkpoint={whole}/model_final.pth", "model.signal_at=evaluation"]
    assert in_a_process(arguments(tmp_path, *weights, eval_only=True)) == 128 + TERM
    assert not (tmp_path / "evaluations.txt").exists()


@pytest.mark.parametrize("sender", [0, 1])
def test_two_processes_end_after_the_same_step_whichever_got_the_signal(
    tmp_path, whole_of_two, sender
):
    signalled = ["model.signal_at=4", f"model.signal_from={sender}"]
    assert in_two_processes(arguments(tmp_path, *signalled)) == [128 + TERM] * 2
    assert sorted(losses(tmp_path)) == [0, 1, 2, 3, 4]
    assert {len(lines) for lines in losses(tmp_path).values()} == {2}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert in_two_processes(arguments(tmp_path, resume=True)) == [0, 0]
    assert_same_run(tmp_path, whole_of_two)


def test_two_processes_cut_an_evaluation_short_together(tmp_path, whole_of_two):
    signalled = ["model.signal_at=evaluation", "model.signal_from=1"]
    assert in_two_processes(arguments(tmp_path, *signalled)) == [128 + TERM] * 2
    assert not (tmp_path / "evaluations.txt").exists()
    assert in_two_processes(arguments(tmp_path, resume=True)) == [0, 0]
    assert_same_run(tmp_path, whole_of_two)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_processes_of_a_launcher_end_with_it_and_save(tmp_path, whole_of_two):
    args = arguments(tmp_path, "model.signal_at=4", "model.signal_to=launcher")
    args.num_gpus = 2
    assert in_a_process(args) == 128 + TERM
    stopped = max(losses(tmp_path))
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{stopped:07d}.pth"

    # a kill leaves the launcher no time to pass anything on
    args.opts += [f"model.signal_at={stopped + 2}", "model.signal_from=1", "model.signum=9"]
    args.resume = True
    assert in_a_process(args) == -signal.SIGKILL
    pids = (tmp_path / "pids.txt").read_text().split()
    assert len(set(pids)) == 4
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.05)
    assert max(losses(tmp_path)) >= stopped + 2
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{max(losses(tmp_path)):07d}.pth"

    assert in_two_processes(arguments(tmp_path, resume=True)) == [0, 0]
    assert_same_run(tmp_path, whole_of_two)


# ---------------------------------------------------------------- the handlers themselves


def test_handlers_raise_are_restored_and_leave_what_is_ignored(monkeypatch):
    before = signal.getsignal(INT)
    monkeypatch.setattr(signals, "_launcher", lambda: None)
    ignored = signal.signal(HUP, signal.SIG_IGN)
    try:
        with pytest.raises(signals.Interrupted) as caught, signals.handled():
            assert signal.getsignal(HUP) is signal.SIG_IGN
            with signals.handled():  # changes nothing
                pass
            os.kill(os.getpid(), INT)
            time.sleep(60)
    finally:
        signal.signal(HUP, ignored)
    assert caught.value.code == 130
    assert signal.getsignal(INT) is before and signals.received() == 0
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_is_noted_while_postponed_and_does_nothing_afterwards():
    with signals.handled():
        with signals.postponed():
            os.kill(os.getpid(), USR1)
            assert signals.received() == USR1
        os.kill(os.getpid(), USR1)


def exit_code_of(body):
    """The exit code of a forked process that calls a function, and the seconds that took."""
    process = multiprocessing.get_context("fork").Process(target=body)
    begin = time.monotonic()
    process.start()
    process.join()
    return process.exitcode, time.monotonic() - begin


def block_for_ever():
    """As a collective does that waits for a process which is gone: in C, whatever signals come."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def test_a_second_signal_ends_a_process_at_once_though_it_runs_no_python(monkeypatch):
    monkeypatch.setattr(signals, "SAME_WISH_LAUNCHED", 0.2)

    def body():
        pid = os.getpid()
        if os.fork() == 0:
            time.sleep(0.3)
            for pause in (0.01, 0.6, 0):  # the first two are one wish
                os.kill(pid, TERM)
                time.sleep(pause)
            os._exit(0)
        with signals.handled(), signals.postponed():
            block_for_ever()

    code, seconds = exit_code_of(body)
    assert code == 128 + TERM and seconds > 0.8


def test_a_first_signal_does_that_where_nothing_is_to_be_saved(monkeypatch):
    monkeypatch.setattr(signals, "UNHEARD", 0.2)

    def body():
        pid = os.getpid()
        if os.fork() == 0:
            time.sleep(0.3)
            os.kill(pid, INT)
            os._exit(0)
        with signals.handled():
            block_for_ever()

    assert exit_code_of(body)[0] == 128 + INT


def test_a_process_ends_with_its_launcher_also_where_interrupts_are_ignored(tmp_path):
    """As behind `nohup ... &`; the launcher is killed before the process looks for it."""
    result = tmp_path / "result"

    def orphan():
        while os.getppid() == multiprocessing.parent_process().pid:
            time.sleep(0.01)
        try:
            with signals.handled():
                time.sleep(60)
        except signals.Interrupted as error:
            result.write_text(str(error.code))

    def launcher():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        multiprocessing.get_context("fork").Process(target=orphan).start()
        os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code_of(launcher)[0] == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not result.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert result.read_text() == str(128 + TERM)
