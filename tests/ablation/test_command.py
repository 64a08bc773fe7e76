"""The command as a whole, with a stub in place of the training."""

import csv
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from toy_runs import CONFIG, STUB

from co_detr.ablation import command
from co_detr.ablation.tables import DataSet, Evaluation, Model, Row, Section, Table

_FILE = Path(__file__).parents[2] / "tools/ablation.py"
_spec = importlib.util.spec_from_file_location("ablation", _FILE)
ablation = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ablation)

DATA_SET = DataSet("digits", ("train.max_iter=4",), {}, epochs=False)
FURTHER = Model(CONFIG, (), Evaluation("again", ("model.postprocess.max_detections=1",)))
TOY = Table(
    9,
    "toys",
    ("what",),
    (
        Section(
            "toys",
            tuple(
                Row((what,), (None,), {"digits": model})
                for what, model in (
                    ("trained", Model(CONFIG)),
                    ("evaluated", FURTHER),
                    ("changed", Model(CONFIG, ("model.num_classes=3",))),
                )
            ),
        ),
    ),
)


@pytest.fixture
def make_tables(tmp_path, monkeypatch, capsys):
    """Run the tool; returns its exit code and what it printed."""
    monkeypatch.setattr(command, "TABLES", {9: TOY})
    monkeypatch.setattr(command, "DATA_SETS", {"digits": DATA_SET})

    def run(*words):
        arguments = ["ablation.py", "9", "--output", str(tmp_path), "--launcher", STUB, *words]
        monkeypatch.setattr("sys.argv", arguments)
        try:
            code = ablation.main()
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_a_table_is_trained_written_and_read_again(make_tables, tmp_path):
    code, printed = make_tables("--seeds", "2", "--jobs", "2")
    folder = tmp_path / "digits"
    assert code == 0
    text = (folder / "table9.md").read_text()
    assert text in printed and "tools/ablation.py 9 --dataset digits --seeds 2" in text
    with open(folder / "table9.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # the stub gives seed k an AP of 10 + k, and any further evaluation 5
    assert [(row["what"], row["seeds"], row["AP"], row["verdict"]) for row in rows] == [
        ("trained", "2", "10.5", "base"),
        ("evaluated", "2", "5.0", "lower"),
        ("changed", "2", "10.5", "undecided"),
    ]
    assert (folder / "table9.png").stat().st_size > 1000
    stem = CONFIG.split("/")[-1]
    trained = {path.parent.name for path in folder.glob("*/seed0")}
    assert trained == {stem, f"{stem}__num_classes=3"}

    code, printed = make_tables("--seeds", "2")
    assert code == 2 and "--resume" in printed and "holds 4 of these runs already (4" in printed
    before = sorted(folder.rglob("commands.txt"))
    counts = [len(path.read_text().splitlines()) for path in before]
    assert make_tables("--seeds", "2", "--resume")[0] == 0
    assert [len(path.read_text().splitlines()) for path in before] == counts

    code, printed = make_tables("--seeds", "2", "--resume", "train.max_iter=8")
    assert code == 2 and "train.max_iter is 4 there, 8 here" in printed


def test_a_failure_is_in_the_exit_code_and_not_in_the_table(make_tables, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_FAILS", "model.num_classes=3")
    code, printed = make_tables("--seeds", "1")
    assert code == 1
    log = tmp_path / "digits" / f"{CONFIG.split('/')[-1]}__num_classes=3" / "seed0" / "console.txt"
    assert printed.splitlines()[-1].startswith("not in the tables: ") and str(log) in printed
    with open(tmp_path / "digits" / "table9.csv", newline="") as file:
        assert [row["seeds"] for row in csv.DictReader(file)] == ["1", "1", "0"]


def test_what_is_complete_is_tabulated_without_training(make_tables, tmp_path):
    code, printed = make_tables("--seeds", "2", "--report-only")
    assert code == 0 and "| trained" in printed
    assert not list(tmp_path.rglob("seed*"))


@pytest.mark.parametrize("word", ["train.seed=3", "+train.output_dir=x"])
def test_what_the_tables_set_cannot_be_changed(make_tables, word):
    code, printed = make_tables(word)
    assert code == 2 and f"{word}: the tables set train.output_dir" in printed


@pytest.mark.parametrize(
    "variable, count, names",
    [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("GPU-ab", 1, ["GPU-ab"]), (None, 0, [])],
)
def test_gpus_are_those_that_are_visible(monkeypatch, variable, count, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable:
        monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", variable)
    assert command.visible_gpus() == names


def test_the_tool_offers_every_table():
    assert [int(number) for number in ablation.NUMBERS] == list(command.TABLES)
