"""The project as a whole: what is packaged, what is pinned, and configs by name."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from packaging.requirements import Requirement

import co_detr
from co_detr import model_zoo
from co_detr.model_facts import MODELS

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings its predecessor
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A folder of three configs in place of the real ones."""
    short = "from ..common.data.coco import data\ntrain = dict(epochs=12)"
    long = "from .co_dino_r50_12ep import data, train\ntrain.epochs = 36"
    for name, text in {
        "common/data/coco.py": "data = dict(names='coco')",
        "co_dino/co_dino_r50_12ep.py": short,
        "co_dino/co_dino_r50_36ep.py": long,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(model_zoo, "config_root", lambda: tmp_path)


@pytest.mark.parametrize("suffix", ["", ".py"])
def test_config_by_name(zoo, suffix):
    cfg = model_zoo.get_config("co_dino/co_dino_r50_36ep" + suffix)
    assert (cfg.train.epochs, cfg.data.names) == (36, "coco")


def test_list_leaves_out_shared_parts(zoo):
    assert model_zoo.list_configs() == ["co_dino/co_dino_r50_12ep", "co_dino/co_dino_r50_36ep"]


@pytest.mark.parametrize("name", ["co_dino/co_dino_r50_24ep", "co_dino_r50_36ep", "dino/r50_36ep"])
def test_unknown_config_is_answered_with_close_matches(zoo, name):
    with pytest.raises(FileNotFoundError, match=f"no config '{name}'.*co_dino/co_dino_r50_36ep"):
        model_zoo.get_config(name)


def test_unknown_config_without_a_close_match_lists_all(zoo):
    with pytest.raises(FileNotFoundError, match="There are: co_dino/co_dino_r50_12ep, co_dino/co"):
        model_zoo.get_config("xyz")


def test_configs_of_a_checkout_are_those_of_the_repository():
    assert model_zoo.config_root() == ROOT / "configs"


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_every_config_loads(name):
    cfg = model_zoo.get_config(name)
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    queries = OmegaConf.select(cfg, "model.query_sources.matching.num_queries")
    assert queries == MODELS[name].queries


@pytest.mark.parametrize("script", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.name)
def test_tools_run_as_scripts(script, tmp_path):
    """In a process of their own, where nothing has made `detectron2` importable before."""
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The project installed from its wheel into an otherwise empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("co_detr", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # The build backend is called directly: pip would fetch one of its own from the network.
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_all_of_the_package_and_all_configs(installed):
    for source, target in (("co_detr", "co_detr"), ("configs", "co_detr/configs")):
        expected = {path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*.py")}
        found = {
            path.relative_to(installed / target) for path in (installed / target).rglob("*.py")
        }
        assert expected <= found


def test_wheel_says_that_it_has_types(installed):
    assert (installed / "co_detr" / "py.typed").exists()


def test_installed_copy_finds_its_configs(installed):
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from co_detr import model_zoo
print(model_zoo.__file__)
print(model_zoo.config_root())
print(*model_zoo.list_configs())
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(installed)],
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    file, root, names = done.stdout.split("\n")[:3]
    assert Path(file) == installed / "co_detr" / "model_zoo.py"
    assert Path(root) == installed / "co_detr" / "configs"
    assert names.split() == model_zoo.list_configs()


def test_installed_copy_trains_by_a_command(installed, tmp_path):
    config = ROOT / "tests" / "engine" / "toy_config.py"
    words = ["--config-file", str(config), "train.max_iter=1", f"train.output_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "co_detr.engine", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model_final.pth").exists()


def test_installed_copy_has_the_command(installed, tmp_path):
    (file,) = installed.glob("*.dist-info/entry_points.txt")
    assert "co-detr = co_detr.cli:main" in file.read_text()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "co_detr", "zoo", "digits"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "co_dino/co_dino_digits " in done.stdout


def test_importing_the_package_warns_of_nothing():
    """Every tool would begin with what a library says about another one."""
    code = "import co_detr; print(co_detr.detectron2_origin()); import co_detr.config"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if not done.stdout.startswith("embedded"):
        pytest.skip("upstream detectron2 imports what it likes")
    assert "Warning" not in done.stderr, done.stderr


def _normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _by_extra():
    """Names of the packages of each extra, and under "" of those that are always there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {_normalized(Requirement(text).name) for text in texts}
        for extra, texts in wanted.items()
    }


def test_every_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(
        re.match(r"[\w.-]+==[\w.]+(; python_version (<|>=) \"3.11\")?$", pin) for pin in pins
    )
    pinned = {_normalized(pin.split("==")[0]) for pin in pins}
    assert not set.union(*_by_extra().values()) - pinned


def test_third_party_names_every_dependency_with_its_extras():
    text = (ROOT / "THIRD_PARTY.md").read_text()
    always, by_extra = text.split("## Packages\n")[1].split("\n## ")[0].split("By extra")
    named = {"": {_normalized(row[0]) for row in _cells(always)}}
    for package, extras, *_ in _cells(by_extra):
        for extra in extras.split(", "):
            named.setdefault(extra, set()).add(_normalized(package))
    assert named == _by_extra()


def _cells(text):
    """The rows of a Markdown table, below its head."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return rows[1:]


def test_citation_has_the_version_of_the_package():
    version = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version[1] == co_detr.__version__


def test_the_workflow_runs_the_versions_of_python_that_are_supported():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}"


DETECTRON2_REQUIREMENTS = [
    "black",
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "matplotlib",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "Pillow>=7.1",
    "pycocotools>=2.0.2",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
]


def test_the_pins_let_detectron2_be_installed_beside_them():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {
        _normalized(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }
    for wanted in map(Requirement, DETECTRON2_REQUIREMENTS):
        version = pinned[_normalized(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted} excludes {version}"


def test_nothing_is_imported_that_only_the_embedded_detectron2_has():
    """What a package of detectron2 exports is known; what its modules hold is not."""
    names = json.loads((ROOT / "tests/contract/package_names.json").read_text())
    files = [
        path
        for folder in ("co_detr", "configs", "datasets", "tests", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(ROOT / "co_detr" / "fallback")
        and not path.is_relative_to(ROOT / "tests" / "fallback")
    ]
    imports = [
        (path.name, node.module, alias.name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in names
        for alias in node.names
    ]
    assert len(imports) > 100
    assert [found for found in imports if found[2] not in names[found[1]]] == []
