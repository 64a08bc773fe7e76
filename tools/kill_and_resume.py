#!/usr/bin/env python
"""Interrupt a training many times, resume it each time, and compare it with an untouched one.

    python tools/kill_and_resume.py [--kills 50] [--seed 0] [--output output/kill_and_resume]

Trains the digits model (prepare the data with datasets/prepare_digits.py first) once as a whole and
once as a chain of processes. Each of these is ended at a random moment: by SIGKILL, by SIGTERM, or
by SIGINT to it and its workers, as a terminal sends it for Ctrl-C; now and then already while it
starts. The exit status is 0 if weights and optimizer end the same, bit for bit, and no process that
was asked to end lost a step.
"""

import argparse
import itertools
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/co_deformable_detr/co_deformable_detr_digits.py"
KINDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ITERATIONS_PER_KILL = 10
CHECKPOINT_PERIOD = 4
SHARE_IN_START = 0.1  # of the kills: before the first step
START_SECONDS = 5.0  # what a start takes at least: imports
TIMEOUT = 600  # seconds in which a process must make progress, or end


class Death(NamedTuple):
    """How a process ended."""

    kind: signal.Signals
    in_start: bool
    reached: int  # steps that were logged
    saved: int  # steps that the next process builds on
    ok: bool  # it had the exit code, and left the checkpoint, that it should


class Run:
    """A training in a folder, in one process or in several, one after the other."""

    def __init__(self, folder: Path, iterations: int, overrides: list[str]):
        self.folder = folder
        self.iterations = iterations
        self._command = [
            *(sys.executable, str(ROOT / "tools/lazyconfig_train_net.py"), "--resume"),
            *("--config-file", str(ROOT / CONFIG)),
            f"train.output_dir={folder}",
            f"train.max_iter={iterations}",
            f"train.checkpointer.period={CHECKPOINT_PERIOD}",
            *("train.log_period=1", "train.eval_period=0", "dataloader.evaluator=null"),
            *("dataloader.train.total_batch_size=2", "dataloader.train.num_workers=1"),
            *overrides,
        ]
        folder.mkdir(parents=True)

    def start(self) -> subprocess.Popen:
        with open(self.folder / "console.txt", "a") as console:
            console.write(f"$ {shlex.join(self._command)}\n")
            console.flush()
            # threads that spin without end would slow down the next process, and the one that dies
            quiet = {"GOMP_SPINCOUNT": "10000", **os.environ}
            return subprocess.Popen(
                self._command, stdout=console, stderr=console, env=quiet, start_new_session=True
            )

    def logged(self) -> int:
        """The number of steps in metrics.json."""
        metrics = self.folder / "metrics.json"
        if not metrics.exists():
            return 0
        # the last line may be on its way still
        lines = metrics.read_text().rpartition("\n")[0].splitlines()
        return json.loads(lines[-1])["iteration"] + 1 if lines else 0

    def saved(self) -> int:
        """The number of steps in the last checkpoint."""
        last = self.folder / "last_checkpoint"
        if not last.exists():
            return 0
        name = last.read_text()
        return self.iterations if "final" in name else int(name[6:13]) + 1

    def finish(self) -> None:
        """Train to the end.

        Raises:
            RuntimeError: that failed.
        """
        if code := self.start().wait():
            raise RuntimeError(f"exit code {code}: see {self.folder / 'console.txt'}")

    def live_and_die(self, kind: signal.Signals, steps: int | None, rng: random.Random) -> Death:
        """Start, end by a signal, and wait for that.

        Args:
            kind: of signal.
            steps: after how many, and a bit; None for before the first one.
        """
        begin = self.saved()
        process = self.start()
        if steps is None:
            time.sleep(rng.uniform(0, START_SECONDS))
        else:
            self._await(begin + steps, process)
            time.sleep(rng.uniform(0, 0.3))
        reached = self.logged()
        # a terminal signals all processes of a job
        target = -process.pid if kind == signal.SIGINT else process.pid
        os.kill(target, kind)
        code = process.wait(TIMEOUT)
        saved = self.saved()
        expected = -kind if kind == signal.SIGKILL else 128 + kind
        ok = code != 0 if steps is None else code == expected
        if steps is not None and kind != signal.SIGKILL:
            ok = ok and saved >= reached
        return Death(kind, steps is None, reached, saved, ok)

    def _await(self, steps: int, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + TIMEOUT
        while self.logged() < steps:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"it did not get to step {steps}: see {self.folder}/console.txt")
            time.sleep(0.02)


def kill_repeatedly(run: Run, kills: int, rng: random.Random) -> list[Death]:
    """End a run as often as that, in all ways in turn, and leave it unfinished."""
    kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
    rng.shuffle(kinds)
    deaths = []
    progress = tqdm(kinds, desc="kills", unit="kill")
    for number, kind in enumerate(progress):
        # leaves two steps for each kill that is to come
        room = run.iterations - run.saved() - 2 * (kills - number) - 2
        steps = max(1, min(rng.randint(1, int(1.6 * ITERATIONS_PER_KILL)), room))
        deaths.append(run.live_and_die(kind, None if rng.random() < SHARE_IN_START else steps, rng))
        progress.set_postfix_str(f"{kind.name}, {run.saved()}/{run.iterations} steps are safe")
    return deaths


def differences(first: object, second: object, name: str = "") -> list[str]:
    """Names of what is not the same in two checkpoints, to the last bit."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{name} (other keys)"]
        parts = (differences(first[key], second[key], f"{name}/{key}") for key in first)
        return list(itertools.chain.from_iterable(parts))
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [name]


def table(deaths: list[Death]) -> str:
    """One row per signal: how often, and what was lost."""
    rows = []
    for kind in KINDS:
        of_kind = [death for death in deaths if death.kind == kind]
        running = [death for death in of_kind if not death.in_start]
        lost = sum(max(death.reached - death.saved, 0) for death in running)
        wrong = sum(not death.ok for death in of_kind)
        rows.append([kind.name, len(of_kind), len(of_kind) - len(running), lost, wrong])
    headers = ["signal", "kills", "of these while starting", "steps done twice", "unexpected ends"]
    return tabulate(rows, headers, tablefmt="github")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="%(default)s by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    parser.add_argument("--output", type=Path, default=Path("output/kill_and_resume"))
    parser.add_argument("opts", nargs="*", help="values of the config to change: key=value")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} is there already: remove it, or choose another --output")
    # started in the background, this process and its children would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

    rng, begin = random.Random(args.seed), time.monotonic()
    iterations = args.kills * ITERATIONS_PER_KILL
    whole, killed = (Run(args.output / name, iterations, args.opts) for name in ("whole", "killed"))
    print(f"training {iterations} steps without a break", flush=True)
    whole.finish()
    deaths = kill_repeatedly(killed, args.kills, rng)
    killed.finish()
    first, second = (
        torch.load(run.folder / "model_final.pth", weights_only=True) for run in (whole, killed)
    )
    found = differences(first, second)
    same = (
        f"all {len(first['model'])} weights and buffers and the optimizer's state are bit-equal"
        if not found
        else f"{len(found)} values DIFFER, among them {', '.join(found[:5])}"
    )
    print(table(deaths))
    print(
        f"{args.kills} kills, {args.kills} resumptions, {iterations} steps, "
        f"{time.monotonic() - begin:.0f} s: {same}"
    )
    sys.exit(bool(found) or not all(death.ok for death in deaths))


if __name__ == "__main__":
    main()
