"""Making the runs that are not complete: several processes side by side, restarted where they were.

Every run is a training followed by the further evaluations of its weights. A failure ends that run
alone; a signal ends all of them, each with a checkpoint.
"""

import contextlib
import datetime
import fcntl
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from co_detr.engine import signals

from .runs import ForeignRunError, Run, check_folder, remember
from .tables import Evaluation

REPORT_PERIOD = 60.0  # seconds between lines about how far everything is


class Failure(RuntimeError):
    """A training or evaluation ended with an error."""


class Runner:
    """Completes runs.

    Args:
        runs: what to complete, with the further evaluations of each.
        jobs: how many processes run side by side.
        launcher: words before each command, such as "srun --gres=gpu:8".
        threads: OMP_NUM_THREADS of each process.
        gpus: values of CUDA_VISIBLE_DEVICES, one for each place; the jobs share them in turns.
            Empty to leave it as it is.
        say: is called with every line about the progress.
        poll: seconds between looks at the processes.

    Attributes:
        failures: by run, what went wrong.
    """

    def __init__(
        self,
        runs: Mapping[Run, Sequence[Evaluation]],
        *,
        jobs: int = 1,
        launcher: str = "",
        threads: int = 1,
        gpus: Sequence[str] = (),
        say: Callable[[str], None] = print,
        poll: float = 1.0,
    ):
        self._runs = runs
        self._slots: list[_Job | None] = [None] * jobs
        self._launcher = shlex.split(launcher)
        self._threads = threads
        self._gpus = list(gpus)
        self._say = say
        self._poll = poll
        self._waiting = [run for run in runs if any(self._steps(run))]
        self._finished = {run for run in runs if run not in self._waiting}
        self._announced: set[Run] = set()
        self.failures: dict[Run, Exception] = {}

    def work(self) -> None:
        """Complete all runs that can be. With any exception, the processes have ended by then.

        Raises:
            Interrupted: by a signal.
        """
        with signals.handled(), signals.postponed():
            reported = self._began = time.monotonic()
            self._before = {run: run.iterations_done() for run in self._waiting}
            try:
                while self._waiting or any(self._slots):
                    if signum := signals.received():
                        raise self._interrupted(signum)
                    self._collect()
                    self._start()
                    if time.monotonic() - reported > REPORT_PERIOD:
                        self._say(self.progress())
                        reported = time.monotonic()
                    time.sleep(self._poll)
            finally:
                self._stop()

    def progress(self) -> str:
        """How many runs are complete, and when all of them will be."""
        done = {run: run.iterations_done() for run in self._before}
        over = self._finished | self.failures.keys()
        left = sum(run.iterations - done[run] for run in done if run not in over)
        worked = sum(done[run] - self._before[run] for run in done)
        seconds = remaining_seconds(left, worked, time.monotonic() - self._began)
        eta = "unknown" if seconds is None else datetime.timedelta(seconds=round(seconds))
        if not left and len(over) < len(self._runs):
            eta = "soon, evaluations are left"
        parts = [f"{len(self._finished)} of {len(self._runs)} runs complete"]
        running = [job for job in self._slots if job is not None and job.run not in over]
        parts.append(f"{len(running)} running")
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        return f"{', '.join(parts)}, {left} iterations left, eta: {eta}"

    def _start(self) -> None:
        """Give every free slot a run that nobody else works at."""
        for slot, job in enumerate(self._slots):
            if job is not None:
                continue
            for run in list(self._waiting):
                try:
                    lock = lock_folder(run.folder)
                except OSError as error:
                    self._waiting.remove(run)
                    self._fails(run, error)
                    continue
                if lock is None:
                    if run not in self._announced:
                        self._announced.add(run)
                        self._say(f"{run.name}: another process works at it, it has to wait")
                    continue
                self._waiting.remove(run)
                job = self._slots[slot] = _Job(run, self._steps(run), lock, self._environment(slot))
                if self._begins(job):
                    break
                self._slots[slot] = None

    def _collect(self) -> None:
        """Look at what has ended, and let it go on with its next step or free the slot."""
        for slot, job in enumerate(self._slots):
            if job is not None and job.has_ended() and not self._goes_on(job):
                self._slots[slot] = None

    def _begins(self, job: "_Job") -> bool:
        """Start the first step of a job; False when it needs none by now, or must not start."""
        try:
            check_folder(job.run)  # whoever worked there before
            remember(job.run)
        except (ForeignRunError, OSError) as error:
            job.lock.close()
            self._fails(job.run, error)
            return False
        return self._goes_on(job)

    def _goes_on(self, job: "_Job") -> bool:
        """Start the next step of a job; False when there is none, or the one before has failed."""
        try:
            what = job.next_step()
        except (Failure, OSError) as error:
            job.lock.close()
            self._fails(job.run, error)
            return False
        if what is not None:
            self._say(f"{job.run.name}: {what}")
            return True
        job.lock.close()
        self._finished.add(job.run)
        took = datetime.timedelta(seconds=round(time.monotonic() - job.began))
        self._say(f"{job.run.name}: complete after {took}; {self.progress()}")
        return False

    def _fails(self, run: Run, error: Exception) -> None:
        self.failures[run] = error
        self._say(f"{run.name}: {error}")

    def _steps(self, run: Run) -> Iterator["_Step"]:
        """What is left to do for a run, found out as it is asked for; changes nothing."""
        if not run.is_complete():
            done = run.iterations_done()
            words = ["--resume", f"train.output_dir={run.folder}", f"train.seed={run.seed}"]
            yield _Step(
                f"trains from iteration {done} to {run.iterations}",
                self._command(run, words),
                run.is_complete,
            )
        for evaluation in self._runs[run]:
            if not run.is_evaluated(evaluation):
                folder = run.evaluation_folder(evaluation)
                words = ["--eval-only", f"train.output_dir={folder}", f"train.seed={run.seed}"]
                words.append(f"train.init_checkpoint={run.weights}")
                yield _Step(
                    f"evaluates {evaluation.name}",
                    [*self._command(run, words), *evaluation.overrides],
                    functools.partial(run.is_evaluated, evaluation),
                )

    def _command(self, run: Run, words: Sequence[str]) -> list[str]:
        python = [*self._launcher, sys.executable, "-m", "co_detr.engine"]
        return [*python, "--config-file", run.config_file, *words, *run.overrides]

    def _environment(self, slot: int) -> dict[str, str]:
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return environment

    def _stop(self) -> None:
        """End what is running, and wait for it."""
        jobs = [job for job in self._slots if job is not None]
        for job in jobs:
            job.ask_to_end()
        for job in jobs:
            if job.process is not None:
                job.process.wait()
            job.lock.close()

    def _interrupted(self, signum: int) -> signals.Interrupted:
        return signals.Interrupted(
            signum,
            f"stopped with {len(self._finished)} of {len(self._runs)} runs complete; the others "
            "are saved. The same command with --resume continues there",
        )


class _Step(NamedTuple):
    """A process to run: what it does, its command, and whether it has done it."""

    what: str
    command: list[str]
    is_done: Callable[[], bool]


class _Job:
    """A run that is being worked at, step by step, in processes of its own.

    Args:
        run: the run.
        steps: what is left of it, each looked at when the one before has ended.
        lock: is open as long as this or any of its processes lives.
        environment: of the processes.

    Attributes:
        process: of the current step.
        began: when work did, by the monotonic clock.
    """

    def __init__(self, run: Run, steps: Iterator[_Step], lock: IO, environment: Mapping[str, str]):
        self.run = run
        self.lock = lock
        self.process: subprocess.Popen | None = None
        self.began = time.monotonic()
        self._steps = steps
        self._step: _Step | None = None
        self._environment = environment

    @property
    def _log(self) -> Path:
        return self.run.folder / "console.txt"

    def has_ended(self) -> bool:
        assert self.process is not None  # a step has begun
        return self.process.poll() is not None

    def next_step(self) -> str | None:
        """Start what is left to do next, and say what it is; None when that is nothing.

        Raises:
            Failure: the step before has failed.
        """
        code = None if self.process is None else self.process.returncode
        if self._step is not None and (code or not self._step.is_done()):
            how = f"exit code {code}" if code else "no result"
            raise Failure(f"failed ({how}) when it {self._step.what}, see {self._log}")
        self._step = next(self._steps, None)
        if self._step is None:
            return None
        with open(self._log, "a") as log:
            self.process = subprocess.Popen(
                self._step.command,
                stdout=log,
                stderr=log,
                env=self._environment,
                # Ctrl-C is for this process to pass on, once
                start_new_session=True,
                # while a training outlives this process, nobody else may work in its folder
                pass_fds=[self.lock.fileno()],
            )
        return self._step.what

    def ask_to_end(self) -> None:
        """Send SIGTERM to the processes of the current step, if they run."""
        if self.process is not None and not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)


def lock_folder(folder: Path) -> IO | None:
    """An open file whose lock is this process's, and that of whom it is passed on to; None if it
    is another one's. The folder is made.

    Raises:
        OSError: the folder cannot be made or locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def remaining_seconds(left: int, worked: int, seconds: float) -> float | None:
    """Time that is left, at the rate so far.

    Args:
        left: iterations to do.
        worked: iterations done so far.
        seconds: that these took, of all processes side by side.

    Returns:
        seconds; None as long as the rate is not known.
    """
    if left == 0:
        return 0.0
    return left * seconds / worked if worked > 0 else None
