"""Pages of the documentation against the tools and configs that they speak of."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from co_detr import model_zoo

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from pages import blocks, commands, links  # noqa: E402

PAGES = blocks.pages()
BLOCKS = [block for page in PAGES for block in blocks.blocks_of(page)]
SHELL = [block for block in BLOCKS if block.is_shell]
PYTHON = [block for block in BLOCKS if block.is_python]
WRITTEN = commands.configs_written(BLOCKS)


def _place(value):
    return value.place if isinstance(value, blocks.Block) else None


@pytest.mark.parametrize("block", SHELL, ids=_place)
def test_commands_are_understood(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    if block.title:
        return
    found = commands.commands_of(block)
    assert found, f"{block.place}: no command"
    problems = {" ".join(words): commands.problem_of(words, WRITTEN) for words in found}
    assert {words: problem for words, problem in problems.items() if problem} == {}


@pytest.mark.parametrize("block", PYTHON, ids=_place)
def test_python_is_python(block):
    ast.parse(block.text)


@pytest.mark.parametrize("block", SHELL + PYTHON, ids=_place)
def test_what_is_replaced_is_there(block):
    assert block.text_to_run()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    problems = [links.problem_of(page, link) for link in links.links_of(page)]
    assert [problem for problem in problems if problem] == []


@cache
def _configs():
    names = ["co_dino/co_dino_digits", "co_dino/co_dino_r50_5scale_12ep_lvis"]
    names += ["co_dino/co_dino_vit_large_5scale_12ep_instance"]
    names += ["co_deformable_detr/co_deformable_detr_swin_tiny_12ep"]
    return [model_zoo.get_config(name) for name in names]


_KEY = re.compile(r"`((?:train|model|dataloader|optimizer|lr_multiplier)\.[\w.]+)[`=]")
_FILE = re.compile(r"\b((?:configs|co_detr|tools|tests|datasets|docs)/[\w/.-]+\.(?:py|md|txt))\b")
_ZOO = re.compile(r"(?<![\w/])((?:co_dino|(?:co_deformable|conditional|dab)_detr)/[a-z]\w+)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_is_named_exists(page):
    text = page.read_text()
    missing = {
        key
        for key in _KEY.findall(text)
        if not key.endswith(".py") and not any(commands.has_key(cfg, key) for cfg in _configs())
    }
    titles = {block.title for block in BLOCKS}
    missing |= {
        name for name in _FILE.findall(text) if not (ROOT / name).exists() and name not in titles
    }
    missing |= {name for name in _ZOO.findall(text) if name not in model_zoo.list_configs()}
    assert missing == set()


PAGE = """Text with `code`.

<!-- not run: needs COCO -->
```
co-detr train birds.py \\
    train.max_iter=3  # a comment
```

1. A list:

   <!-- run: three => 3 -->
   ```python title="a/b.py"
   print("three")
   ```

```console
$ A=1 echo yes && ls
yes
```
"""


def test_blocks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    train, python, console = blocks.blocks_of(page)
    assert (train.line, train.not_run, train.is_shell) == (4, "needs COCO", True)
    assert commands.commands_of(train) == [["co-detr", "train", "birds.py", "train.max_iter=3"]]
    assert (python.title, python.not_run) == ("a/b.py", None)
    assert python.text_to_run() == 'print("3")\n'
    assert commands.commands_of(console) == [["echo", "yes"], ["ls"]]
    page.write_text("```\nls\n")
    with pytest.raises(ValueError, match=r"page.md:1: a block without an end"):
        blocks.blocks_of(page)
    page.write_text("<!-- run: a => b -->\n```\nls\n```\n")
    with pytest.raises(ValueError, match="there is no 'a' to replace"):
        blocks.blocks_of(page)[0].text_to_run()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("co-detr predict model.pth photo.jpg --output out/", None),
        ("co-detr train birds.py --resume optimizer.lr=1e-3", None),
        ("co-detr train co_dino_digits", None),
        ("co-detr train co_dino_digit", "no file"),
        ("co-detr predict model.pth --no-such-option photo.jpg", "--no-such-option"),
        ("co-detr train birds.py train.no_such_key=1", "no_such_key"),
        ("co-detr check birds/ train.max_iter=1", "train.max_iter=1"),
        ("python tools/no_such_tool.py", "there is no tools/no_such_tool.py"),
        ("python tools/analyze.py score-maps --config-file co_dino_digits --weights w.pth", None),
        ("torchrun --nproc-per-node 8 tools/lazyconfig_train_net.py --config-file birds.py", None),
        ("srun python -m co_detr.engine --config-file co_dino_digits --nonsense", "nonsense"),
        ("make demo", None),
        ("make tea", "make has no tea"),
        ("frobnicate", "frobnicate is no command"),
    ],
)
def test_problems_of_commands(command, problem, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands.problem_of(command.split(), {"birds.py"})
    assert found is None if problem is None else problem in found


def test_problems_of_links(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text("[a](other.md#a-b-c) `[b](none.md)` ![c](none.png)\n```\n[d](none.md)\n```\n")
    other.write_text("# A, `b`: c?\n\n## Twice\n\n## Twice\n")
    assert links.links_of(page) == ["other.md#a-b-c", "none.png"]
    assert links.anchors_of(other) == {"a-b-c", "twice", "twice-1"}
    for link, good in {
        "other.md#a-b-c": True,
        "other.md#twice-2": False,
        "none.png": False,
        "#nowhere": False,
        "https://example.org/a": True,
        "https:/example": False,
        "htps://example.org": False,
    }.items():
        assert (links.problem_of(page, link) is None) == good, link
