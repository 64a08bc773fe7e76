"""From a request for tables to their files: plan, complete what is missing, compare, write."""

import argparse
import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from .paper import DATA_SETS, TABLES
from .plot import plot
from .report import compare, markdown, write_csv
from .results import result_of
from .runs import Run, check_folder, plan
from .tables import DataSet, Evaluation, Model, Table
from .training import Runner

RESERVED = ("train.output_dir", "train.seed", "train.init_checkpoint")


def main(args: argparse.Namespace) -> int:
    """Make tables.

    Args:
        args: tables (numbers), dataset, seeds, jobs (None for one per GPU), resume, report_only,
            output, threads, launcher, opts.

    Returns:
        the exit code: 1 if runs have failed, 0 otherwise.

    Raises:
        FileExistsError, ForeignRunError: the output folder holds runs that stand in the way.
        FileNotFoundError: a config is missing.
        Interrupted: by a signal.
    """
    dataset = DATA_SETS[args.dataset]
    if clash := [word for word in args.opts if word.strip("+").startswith(RESERVED)]:
        raise ValueError(f"{clash[0]}: the tables set {', '.join(RESERVED)} for each run")
    tables = [TABLES[number] for number in args.tables]
    plans = [plan(table, dataset, args.seeds, args.opts, args.output) for table in tables]
    runs = wanted_runs(plans)
    check_output(runs, resume=args.resume or args.report_only, output=args.output)
    failures = {}
    if not args.report_only:
        gpus = [] if args.launcher else visible_gpus()
        runner = Runner(
            runs,
            jobs=args.jobs or max(len(gpus), 1),
            launcher=args.launcher,
            threads=args.threads,
            gpus=gpus,
        )
        runner.work()
        failures = runner.failures
    for table, planned in zip(tables, plans):
        print(write(table, dataset, planned, args.output / dataset.name, command_of(args, table)))
    for run, error in failures.items():
        print(f"not in the tables: {run.name}: {error}")
    return 1 if failures else 0


def wanted_runs(plans: Sequence[dict[Model, list[Run]]]) -> dict[Run, list[Evaluation]]:
    """Every run of some tables once, first all with seed 0, with its further evaluations."""
    runs: dict[Run, dict[Evaluation, None]] = {}
    for planned in plans:
        for model, seeds in planned.items():
            for run in seeds:
                evaluations = runs.setdefault(run, {})
                if model.evaluation is not None:
                    evaluations[model.evaluation] = None
    return {run: list(runs[run]) for run in sorted(runs, key=lambda run: run.seed)}


def check_output(runs: Collection[Run], *, resume: bool, output: Path) -> None:
    """Refuse to touch what is there unless it is to be continued and fits.

    Raises:
        FileExistsError: there are runs, and `resume` is not set.
        ForeignRunError: a folder holds a run that was made with other settings.
    """
    started = [run for run in runs if run.is_started()]
    if started and not resume:
        complete = sum(run.is_complete() for run in started)
        raise FileExistsError(
            f"{output} holds {len(started)} of these runs already ({complete} complete), such as "
            f"{started[0].folder}: use --resume to continue them, complete ones are only read; or "
            "choose another --output"
        )
    for run in started:
        check_folder(run)


def visible_gpus() -> list[str]:
    """CUDA devices of this process as CUDA_VISIBLE_DEVICES calls them, one by one."""
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names[:count] if names[0] else [str(number) for number in range(count)]


def write(
    table: Table,
    dataset: DataSet,
    planned: dict[Model, list[Run]],
    folder: Path,
    command: str,
) -> str:
    """Write table<N>.md, .csv and .png of what is complete; return the first."""
    results, iterations = {}, {}
    for row in table.rows_on(dataset.name):
        model = row.models[dataset.name]
        found = (result_of(run, model.evaluation) for run in planned[model])
        results[row] = [result for result in found if result is not None]
        iterations[row] = planned[model][0].iterations
    sections = compare(table, dataset, results, iterations)
    lines = [line for _, part in sections for line in part]
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"table{table.number}"
    text = markdown(table, dataset, lines, command)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    write_csv(stem.with_suffix(".csv"), table, dataset, lines)
    plot(stem.with_suffix(".png"), table, dataset, sections)
    return text


def command_of(args: argparse.Namespace, table: Table) -> str:
    """The command that makes a table, for its reader."""
    words = ["python", "tools/ablation.py", str(table.number), "--dataset", args.dataset]
    return shlex.join([*words, "--seeds", str(args.seeds), *args.opts])
