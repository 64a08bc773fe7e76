"""The command line as a whole: help without heavy imports, errors in one line, the zoo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from co_detr import model_zoo
from co_detr.cli import main
from co_detr.cli.commands import COMMANDS
from co_detr.cli.errors import one_line
from co_detr.model_facts import MODELS, SHORT_NAMES

ROOT = Path(__file__).parents[2]


def test_help_of_all_commands_imports_nothing_heavy():
    code = f"""
import sys
from co_detr.cli import main
for words in [[], *([name] for name in {list(COMMANDS)})]:
    try: main([*words, "--help"])
    except SystemExit as stopped: assert not stopped.code
heavy = "torch numpy detectron2 omegaconf PIL yaml supervision tabulate".split()
print(sorted(set(heavy) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("[]")
    assert all(f"usage: co-detr {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "words, message",
    [
        (["train"], "co-detr train: error: the following arguments are required: CONFIG"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "birdz.py"], "birdz.py is no file, and there is no model 'birdz.py'"),
        (["zoo", "a=b"], "`zoo` changes no config: 'a=b' has no place here"),
        (["predict", "w.pth", "a.jpg", "--confidence-threshold", "50"], "not between 0 and 1"),
        (["new", "birds", "--data", "."], "birds must end in .py"),
    ],
)
def test_a_command_line_without_a_meaning_ends_with_2_and_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    written = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in written and written.count("\n") == 1


def test_a_failure_is_one_line_with_exit_code_1_and_a_traceback_with_debug(capsys, tmp_path):
    words = ["evaluate", "co_dino_digits", str(tmp_path / "model.pth")]
    assert main(words) == 1
    written = capsys.readouterr().err
    assert written.startswith(f"co-detr evaluate: error: there is no {tmp_path}/model.pth: give")
    assert written.count("\n") == 1
    with pytest.raises(FileNotFoundError):
        main([*words, "--debug"])


@pytest.mark.parametrize(
    "error, expected",
    [
        (KeyError("no dataset 'x'"), "no dataset 'x'"),
        (ValueError("first\n  second"), "first second"),
        (RuntimeError("broken"), "RuntimeError: broken (--debug shows where)"),
        (MemoryError(), "out of memory: make batches smaller"),
    ],
)
def test_what_an_error_says(error, expected):
    assert one_line(error).startswith(expected)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("timm", ": pip install timm"),
        ("av", ": pip install av"),
        ("ensemble_boxes", ": pip install ensemble-boxes"),
        ("cv2", ": pip install opencv-python-headless"),
        ("PIL", ": pip install Pillow"),
        ("yaml", ": pip install PyYAML"),
        ("myparts", ": if it is your own, put the folder that it is in on PYTHONPATH"),
        ("timm.myparts", ""),
        (None, ""),
    ],
)
def test_only_what_the_project_needs_is_to_be_installed(name, remedy):
    text = f"No module named {name!r}"
    assert one_line(ModuleNotFoundError(text, name=name)) == text + remedy


def test_a_name_that_a_module_lacks_is_no_package():
    error = ImportError("cannot import name 'x' from 'timm'", name="timm")
    assert one_line(error) == "cannot import name 'x' from 'timm'"
    error = ModuleNotFoundError('it needs y: pip install "co-detr[z]"', name="y")
    assert one_line(error) == 'it needs y: pip install "co-detr[z]"'


# ---------------------------------------------------------------------------------- the zoo


@pytest.mark.parametrize(
    "text, name",
    [
        ("co_dino_r50", "co_dino/co_dino_r50_5scale_12ep"),
        ("co_dino_digits", "co_dino/co_dino_digits"),
        ("configs/co_dino/co_dino_digits.py", "co_dino/co_dino_digits"),
        ("dino_r50_5scale_lsj_36", "co_dino/co_dino_r50_5scale_lsj_36ep"),
    ],
)
def test_short_names(text, name):
    assert model_zoo.find_config(text) == name


@pytest.mark.parametrize(
    "text, message",
    [
        ("co_dino_r51", "no model 'co_dino_r51'. Is one of these meant: .*co_dino_r50"),
        ("co_dino", r"means \d+ models: co_dino/co_dino_digits, "),
    ],
)
def test_names_that_mean_none_or_several_are_answered_with_suggestions(text, message):
    with pytest.raises(ValueError, match=message):
        model_zoo.find_config(text)


def test_the_zoo_is_filtered_by_words(capsys):
    assert main(["zoo", "swin-l", "lvis"]) == 0
    shown = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in shown] == [
        "co_dino/co_dino_swin_large_5scale_lsj_36ep_lvis",
        "co_dino/co_dino_swin_large_5scale_lsj_16ep_o365tolvis",
    ]
    assert main(["zoo", "yolo"]) == 1
    assert "no model has 'yolo'" in capsys.readouterr().err


def test_facts_are_those_of_the_model_zoos_page():
    row = re.compile(r"\| \[`\w+`\]\(configs/([\w/]+)\.py\) \|(.*)\|$", re.MULTILINE)
    listed = {}
    for name, cells in row.findall((ROOT / "MODEL_ZOO.md").read_text()):
        backbone, epochs, ap, *_, release = (cell.strip() for cell in cells.split("|"))
        listed[name] = (
            backbone.replace("narrow R18", "R18/4"),
            None if epochs == "-" else int(epochs),
            None if ap == "-" else float(ap.split()[0]),
            None if release == "-" else release.strip("`"),
        )
    known = {n: (f.backbone, f.epochs, f.published_ap, f.release) for n, f in MODELS.items()}
    assert known == listed
    assert set(MODELS) == set(model_zoo.list_configs()) >= set(SHORT_NAMES.values())
