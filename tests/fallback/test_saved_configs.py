"""What the embedded detectron2 writes into a config's YAML, and what it takes from others'."""

import functools
import logging
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import launch
from detectron2.modeling.backbone import ResNet
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

import co_detr

pytestmark = pytest.mark.skipif(
    not co_detr.detectron2_origin().startswith("embedded"),
    reason="detectron2 itself runs what a file asks for",
)


class Outer:
    class Inner:
        pass

    @classmethod
    def made(cls, size):
        return cls, size


@dataclass
class Point:
    x: int
    y: int = 2


def saved(tmp_path, **content):
    """A config's text after saving, and the config it loads as."""
    cfg = OmegaConf.create(content, flags={"allow_objects": True})
    path = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(path))
    return path.read_text(), LazyConfig.load(str(path))


def load(tmp_path, text):
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    return LazyConfig.load(str(path))


@pytest.mark.parametrize(
    "value, name",
    [
        (torch.nn.Linear, "torch.nn.Linear"),
        (torch.optim.AdamW, "torch.optim.AdamW"),
        (torch.sigmoid, "torch.sigmoid"),
        (torch.nn.functional.relu, "torch.nn.functional.relu"),
        (torch.float16, "torch.float16"),
        (float, "builtins.float"),
        (math.sqrt, "math.sqrt"),
        (Outer, f"{__name__}.Outer"),
        (launch, "detectron2.engine.launch"),  # called like its module
    ],
)
def test_a_class_or_function_is_written_by_its_name(tmp_path, value, name):
    text, again = saved(tmp_path, part={"kind": value})
    assert f"kind: !!python/name:{name} ''" in text
    assert again.part.kind is value
    # detectron2 reads these files like this
    assert yaml.unsafe_load(text)["part"]["kind"] is value


@pytest.mark.parametrize("value", [Outer.Inner, Outer.made, ResNet.make_stage, len])
def test_what_such_a_name_cannot_say_is_written_as_a_call(tmp_path, value):
    """A name leads to what is in a module; no further, and not to functions of Python itself."""
    text, again = saved(tmp_path, part={"kind": value})
    assert "!!python" not in text
    assert instantiate(again.part.kind) == value


def test_calls_are_written_by_name_whatever_they_call(tmp_path):
    text, again = saved(tmp_path, a=L(Outer.made)(size=3), b=L(launch)(), c=L(ResNet.make_stage)())
    assert instantiate(again.a) == (Outer, 3)
    assert again.b._target_ == "detectron2.engine.launch"
    assert again.c._target_ == "detectron2.modeling.ResNet.make_stage"


def test_partial_functions_are_read_as_detectron2_writes_them(tmp_path):
    text, again = saved(tmp_path, f=functools.partial(torch.nn.functional.gelu, approximate="tanh"))
    assert again.f.func is torch.nn.functional.gelu
    assert again.f.keywords == {"approximate": "tanh"}
    assert yaml.unsafe_load(text)["f"].keywords == {"approximate": "tanh"}

    partial = functools.partial(math.pow, 2.0)
    theirs = yaml.dump({"f": partial, "pair": (1, 2)})  # as LazyConfig.save of detectron2
    again = load(tmp_path, theirs)
    assert again.f(3.0) == 8.0 and list(again.pair) == [1, 2]


def test_numbers_paths_and_dataclasses_keep_their_values(tmp_path):
    text, again = saved(
        tmp_path,
        numbers=[np.float64(1e-4), np.float32(0.5), np.int64(7), torch.tensor(3)],
        folder=Path("runs") / "ä",
        point=Point(1),
        texts=["1e-4", "on", "2024-01-01", "~"],
    )
    assert list(again.numbers) == [1e-4, 0.5, 7, 3]
    assert again.folder == "runs/ä"
    assert instantiate(again.point) == Point(1, 2)
    assert list(again.texts) == ["1e-4", "on", "2024-01-01", "~"]
    assert yaml.safe_load(text)["texts"] == ["1e-4", "on", "2024-01-01", "~"]


@pytest.mark.parametrize("value", [lambda x: x, functools.partial(lambda x: x), torch.zeros(2)])
def test_what_has_no_name_is_said_and_leaves_a_file_that_loads(tmp_path, caplog, value):
    with caplog.at_level(logging.WARNING):
        _, again = saved(tmp_path, part={"kind": value}, rest=1)
    assert "only the text form of part.kind could be saved" in caplog.text
    assert isinstance(again.part.kind, str) and again.rest == 1


def test_a_dangling_reference_names_the_file_and_the_remedy(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("kept")
    cfg = OmegaConf.create({"head": {"size": "${..num_classes}"}})
    with pytest.raises(
        InterpolationKeyError, match=r"config.yaml.*\n.*head.size(.*\n)*.*underscore"
    ):
        LazyConfig.save(cfg, str(path))
    assert path.read_text() == "kept"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("!!python/object/apply:os.system ['touch ran']", "asks for running code"),
        ("!!python/object/new:os.system ['touch ran']", "asks for running code"),
        ("!!python/object:detectron2.structures.Boxes {}", "asks for running code"),
        ("!!python/module:antigravity ''", "asks for running code"),
        ("!!python/name:os.system ''", "part of Python's posix"),
        ("!!python/name:subprocess.Popen ''", "part of Python's subprocess"),
        ("!!python/name:eval ''", "part of Python's builtins"),
        ("!!python/name:builtins.exec ''", "part of Python's builtins"),
        ("!!python/name:torch.os.system ''", "passes through a module"),
        ("!!python/name:torch.nn.Module.__init__ ''", "no class or function of a module"),
        ("!!python/name:torch.pi ''", "no class or function"),
        ("!!python/name:torch.nn.Linaer ''", "there is no torch.nn.Linaer"),
        ("!!python/name:torch.nn..Linear ''", "is no dotted name"),
        ("!!python/name:../torch.nn.Linear ''", "is no dotted name"),
        ("!!python/name:runs_when_imported.x ''", "import runs_when_imported"),
        (
            "!!python/object/apply:functools.partial {args: [!!python/name:os.system '', a]}",
            "posix",
        ),
        ("!!python/object/apply:functools.partial {args: [text]}", "a function first"),
        ("!!python/object/apply:functools.partial {kwds: {}}", "a function first"),
    ],
)
def test_reading_runs_nothing(tmp_path, monkeypatch, text, reason):
    (tmp_path / "runs_when_imported.py").write_text("open('ran', 'w')\nx = dict\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(yaml.YAMLError, match=reason) as caught:
        load(tmp_path, f"a: 1\nkind: {text}\n")
    assert "theirs.yaml" in str(caught.value) and "line 2" in str(caught.value)
    assert not os.path.exists("ran")


def test_a_name_of_ones_own_package_needs_its_import_first(tmp_path, monkeypatch):
    (tmp_path / "my_project_heads.py").write_text("class Head:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_project_heads

    text = "kind: !!python/name:my_project_heads.Head ''\n"
    assert load(tmp_path, text).kind is my_project_heads.Head


def test_an_empty_file_is_an_empty_config(tmp_path):
    assert load(tmp_path, "") == {}
    with pytest.raises(yaml.YAMLError, match="duplicate key"):
        load(tmp_path, "a: 1\na: 2\n")


def test_names_of_functions_called_like_their_module(tmp_path):
    assert _convert_target_to_string(launch) == "detectron2.engine.launch"
    assert locate("detectron2.engine.launch") is launch
    assert locate("detectron2.engine.launch.launch") is launch  # in configs that were saved so
    with pytest.raises(ImportError, match="no attribute 'lunch'"):
        locate("detectron2.engine.launch.lunch")


def test_configs_are_utf8_whatever_the_locale_is(tmp_path):
    (tmp_path / "a.py").write_text('x = dict(name="Kähne")\n', encoding="utf-8")
    script = (
        "import sys, co_detr\n"
        "from detectron2.config import LazyConfig\n"
        "LazyConfig.save(LazyConfig.load('a.py'), 'a.yaml')\n"
        "print(ascii(LazyConfig.load('a.yaml').x.name))\n"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    printed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == "'K\\xe4hne'\n"
    assert "name: Kähne" in (tmp_path / "a.yaml").read_text(encoding="utf-8")
