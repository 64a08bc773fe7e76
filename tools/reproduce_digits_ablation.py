#!/usr/bin/env python
"""Train the digits models with K = 0, 1, 2 auxiliary heads on several seeds and tabulate their AP.

    python tools/reproduce_digits_ablation.py [--seeds 0 1] [--jobs 1] [--output output/ablation]

The paper's table 2 in miniature: equal iterations, equal everything but the heads. Prepare the data
with datasets/prepare_digits.py first. A run that was interrupted continues where it stopped, one
that is complete is only read. The table goes to the screen and to table.md in the output folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

from tabulate import tabulate

from co_detr.arguments import config_path, parse_arguments, user_path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = [
    str(ROOT / f"configs/co_deformable_detr/co_deformable_detr_digits{suffix}.py")
    for suffix in ("_k0", "_k1", "")
]


def train(config: str, seed: int, output: Path, threads: int, overrides: list[str]) -> Path:
    """Run or finish one training; return its folder.

    Raises:
        RuntimeError: the training failed; names its log.
    """
    folder = output / f"{Path(config).stem}_seed{seed}"
    if (folder / "model_final.pth").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tools/lazyconfig_train_net.py"), "--resume"]
    command += ["--config-file", config]
    command += [f"train.output_dir={folder}", f"train.seed={seed}"]
    command += ["dataloader.train.num_workers=1", "dataloader.test.num_workers=1"]
    command += overrides
    print(f"training {folder.name}", flush=True)
    with open(folder / "console.txt", "a") as console:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=console, stderr=console, env=environment)
    if done.returncode:
        raise RuntimeError(f"{config} with seed {seed} failed: see {folder / 'console.txt'}")
    return folder


def evaluations(folder: Path) -> list[dict]:
    """The evaluations of a run in the order of their iterations."""
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    found = {row["iteration"]: row for row in rows if "bbox/AP" in row}
    return [found[iteration] for iteration in sorted(found)]


def table(runs: dict[tuple[str, int], list[dict]], seeds: list[int]) -> str:
    """One markdown row per config: AP along each run, and the means over seeds at the end."""
    # an evaluation carries the number of the iteration it follows, the last one that of its end
    *earlier, last = (row["iteration"] for row in next(iter(runs.values())))
    iterations = [*(iteration + 1 for iteration in earlier), last]
    along = " / ".join(map(str, iterations))
    headers = ["config", *(f"seed {s}: AP at {along}" for s in seeds), "mean AP", "AP50", "AP75"]
    rows = []
    for config in dict.fromkeys(config for config, _ in runs):
        of_seed = [runs[config, seed] for seed in seeds]
        cells = [" / ".join(f"{row['bbox/AP']:.1f}" for row in run) for run in of_seed]
        means = [
            statistics.mean(run[-1][f"bbox/{metric}"] for run in of_seed)
            for metric in ("AP", "AP50", "AP75")
        ]
        rows.append([Path(config).stem, *cells, *(f"{mean:.1f}" for mean in means)])
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--configs",
        nargs="+",
        type=config_path,
        default=CONFIGS,
        help="files, or names of the model zoo; K = 0, 1, 2 by default",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="trainings that run side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each training")
    parser.add_argument("--output", type=user_path, default=Path("output/digits_ablation"))
    args = parse_arguments(parser)

    keys = [(config, seed) for config in args.configs for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = pool.map(lambda key: train(*key, args.output, args.threads, args.opts), keys)
        runs = {key: evaluations(folder) for key, folder in zip(keys, folders)}
    text = table(runs, args.seeds)
    (args.output / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
