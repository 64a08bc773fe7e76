"""Tables as text: what their cells say."""

import csv
import locale
import math

import pytest

from co_detr.ablation.command import write
from co_detr.ablation.plot import curve_of
from co_detr.ablation.report import compare, markdown, plus_minus, write_csv
from co_detr.ablation.results import Estimate, Result
from co_detr.ablation.runs import Run
from co_detr.ablation.tables import DataSet, Model, Row, Section, Table

DIGITS = DataSet("digits", (), {}, epochs=False)
COCO = DataSet("coco", (), {}, epochs=True)


def result(ap, ap50, seconds=0.5, **curve):
    curve = {int(name[1:]): value for name, value in curve.items()}
    return Result({"AP": ap, "AP50": ap50, "AP75": math.nan}, curve, seconds, math.nan)


def row(*labels, published, on=("coco", "digits")):
    return Row(labels, published, {name: Model("any") for name in on})


BASE = row("DETR", 0, 12, published=(37.1, 70))
BETTER = row("DETR", 1, 12, published=(42.3, None))
MISSING = row("DETR", 2, 12, published=(42.9, 120))
ELSEWHERE = row("DETR", 0, 36, published=(43.3, 210), on=("coco",))
TABLE = Table(
    2,
    "toys",
    ("method", "K", "epochs"),
    (Section("DETR", (BASE, BETTER, MISSING)), Section("long", (ELSEWHERE,))),
    published=("AP", "GPU hours"),
    costs=True,
    notes=("A toy.",),
)
# base 11 +- 1, better 16 +- 1: difference 5 +- sqrt(2)
RESULTS = {
    BASE: [result(10.0, 20.0), result(12.0, 22.0, seconds=0.7)],
    BETTER: [result(15.0, 30.0), result(17.0, 30.0)],
    MISSING: [],
}
ITERATIONS = {BASE: 300, BETTER: 300, MISSING: 900, ELSEWHERE: 900}


def lines_of(table, dataset, results):
    sections = compare(table, dataset, results, ITERATIONS)
    return [line for _, lines in sections for line in lines]


def cells(text, first):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_has_means_errors_differences_and_what_was_published():
    text = markdown(TABLE, DIGITS, lines_of(TABLE, DIGITS, RESULTS), "python make.py 2")
    assert text.startswith("### Table 2: toys\n\nOn digits; `python make.py 2`\n")
    assert text.rstrip().endswith("- A toy.")
    assert cells(text, "method") == [
        *("method", "K", "iterations", "seeds", "AP", "AP50", "AP75", "difference", "verdict"),
        *("memory (MiB)", "time (s / iteration)", "published (COCO): AP / GPU hours"),
    ]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| DETR")
    ]
    assert rows == [
        ["DETR", "0", "300", "2", "11.0 ± 1.0", "21.0 ± 1.0", "-", "base", "", "-", "0.600"]
        + ["37.1 / 70"],
        ["DETR", "1", "300", "2", "16.0 ± 1.0", "30.0 ± 0.0", "-", "+5.0 ± 1.4", "higher", "-"]
        + ["0.500", "42.3 / -"],
        ["DETR", "2", "900", "0", "-", "-", "-", "-", "", "-", "-", "42.9 / 120"],
    ]


def test_epochs_are_for_coco_alone():
    results = {**RESULTS, ELSEWHERE: [result(30.0, 40.0)]}
    text = markdown(TABLE, COCO, lines_of(TABLE, COCO, results), "")
    rows = [line.split("|")[3].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["epochs", "12", "12", "12", "36"]
    last = [line for line in text.splitlines() if line.startswith("| DETR")][-1].split("|")
    assert (last[5].strip(), last[8].strip()) == ("30.0", "base")  # of a section of its own


def test_csv_has_a_column_for_each_number(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, TABLE, DIGITS, lines_of(TABLE, DIGITS, RESULTS))
    with open(path, newline="") as file:
        base, better, missing = csv.DictReader(file)
    assert better == {
        **{"method": "DETR", "K": "1", "iterations": "300", "seeds": "2"},
        **{"AP": "16.0", "AP standard error": "1.0"},
        **{"AP50": "30.0", "AP50 standard error": "0.0"},
        **{"AP75": "", "AP75 standard error": ""},
        **{"difference": "5.0", "difference standard error": "1.4142", "verdict": "higher"},
        **{"memory (MiB)": "", "seconds": "0.5"},
        **{"published (COCO) AP": "42.3", "published (COCO) GPU hours": ""},
    }
    assert (base["verdict"], base["difference"], base["seconds"]) == ("base", "", "0.6")
    assert (missing["AP"], missing["verdict"], missing["seeds"]) == ("", "", "0")


@pytest.fixture
def ascii_locale():
    """As under LC_ALL=C; of no effect where Python is in its UTF-8 mode."""
    before = locale.setlocale(locale.LC_CTYPE)
    yield locale.setlocale(locale.LC_CTYPE, "C")
    locale.setlocale(locale.LC_CTYPE, before)


def test_tables_are_utf8_in_every_locale(tmp_path, ascii_locale):
    strange = row("DETR", "K ≥ 1", 12, published=(1, 2))
    table = Table(2, "toys", TABLE.labels, (Section("x", (strange,)),), TABLE.published)
    runs = {strange.models["digits"]: [Run("co_dino/co_dino_digits", (), 0, tmp_path / "seed0")]}
    write(table, DIGITS, runs, tmp_path, "python make.py")
    assert "Mean ± standard" in (tmp_path / "table2.md").read_bytes().decode()
    assert "DETR,K ≥ 1," in (tmp_path / "table2.csv").read_bytes().decode()


def test_the_base_need_not_come_first():
    table = Table(12, "toys", ("method", "K", "epochs"), (Section("x", (BASE, BETTER), base=1),))
    first, second = lines_of(table, DIGITS, RESULTS)
    assert (first.to_base.mean, first.verdict, second.base) == (-5.0, "lower", True)


def test_one_label_may_go_across():
    table = Table(11, "toys", TABLE.labels, TABLE.sections, across="K")
    text = markdown(table, DIGITS, lines_of(table, DIGITS, RESULTS), "")
    grid = text.split("\n\n")[2].splitlines()
    assert [cell.strip() for cell in grid[0].strip("|").split("|")] == [
        *("method", "iterations", "K = 0", "K = 1", "K = 2")
    ]
    assert "11.0 ± 1.0" in grid[2] and "16.0 ± 1.0 (+5.0 ± 1.4, higher)" in grid[2]


@pytest.mark.parametrize(
    "value, sign, text",
    [
        ((1.25, 0.04), "", "1.2 ± 0.0"),
        ((1.25, math.nan), "+", "+1.2"),
        ((-3.0, 0.5), "+", "-3.0 ± 0.5"),
        ((math.nan, math.nan), "", "-"),
    ],
)
def test_what_is_not_known_is_left_out(value, sign, text):
    assert plus_minus(Estimate(*value), sign) == text


def test_a_curve_has_the_mean_and_the_spread_where_all_seeds_were_evaluated():
    seeds = [result(5.0, 0.0, _100=1.0, _200=5.0), result(9.0, 0.0, _100=3.0, _200=9.0, _50=0.0)]
    results = {**RESULTS, BASE: seeds}
    curve = curve_of(lines_of(TABLE, DIGITS, results)[0])
    assert curve == ([100, 200], [2.0, 7.0], [1.0, 5.0], [3.0, 9.0])
    assert curve_of(lines_of(TABLE, DIGITS, results)[2]) == ([], [], [], [])
