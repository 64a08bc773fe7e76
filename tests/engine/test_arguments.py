"""Command lines: any text is a value, `~` is the home folder, configs go by file or by name."""

import argparse
import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_argument_parser
from detectron2.utils.file_io import PathManager
from jobs import TOY, arguments
from omegaconf import OmegaConf
from tiny_dataset import register

from co_detr import model_zoo
from co_detr.arguments import config_path, parse_arguments, split_overrides
from co_detr.data import load_dataset
from co_detr.engine import main
from co_detr.engine.overrides import apply_overrides, parse_value
from co_detr.paths import expand_home

ROOT = Path(__file__).parents[2]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "text",
    [
        "~/run",
        "a,b",
        "a b",
        "x=y",
        "[1",
        "it's",
        "ü/ö",
        "ä=[1",
        "a#b;c!",
        "C:\\new\\x",
        "run(2)",
        "",
    ]
    + ["choice(1,2)", "range(1,3)", "f(x)", "'a'b", "{x", "a, b", "100%", "?*", "a\\", "日本"],
)
def test_any_text_is_a_value(text):
    cfg = OmegaConf.create({"train": {"output_dir": "out"}})
    assert apply_overrides(cfg, [f"train.output_dir={text}"]) == []
    assert cfg.train.output_dir == text


@pytest.mark.parametrize(
    "text, value",
    [("3", 3), ("1e-4", 1e-4), ("-0.5", -0.5), ("true", True), ("False", False), ("null", None)]
    + [("None", None), ("'None'", "None"), ('"3"', "3"), ("[1,2.5,x]", [1, 2.5, "x"]), ("[]", [])]
    + [("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}), ("int(3.0)", 3), ("(0.9,0.99)", [0.9, 0.99])]
    + [("[ä, ~/x]", ["ä", "~/x"]), ("{'a': 'ö'}", {"a": "ö"}), ("['a','b']", ["a", "b"])],
)
def test_numbers_lists_and_sections_are_read_as_such(text, value):
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_interpolations_are_resolved_and_what_is_none_stays_text():
    cfg = OmegaConf.create({"a": 1, "b": "x", "c": "x", "d": "x"})
    apply_overrides(cfg, ["b=${a}", "c=run_${a}/x", "d=${unfinished"])
    assert (cfg.b, cfg.c, cfg.d) == (1, "run_1/x", "${unfinished")


def test_overrides_merge_sections_and_replace_lists():
    cfg = OmegaConf.create({"a": {"b": 1, "c": [1, 2, 3]}})
    apply_overrides(cfg, ["a={d: 4}", "a.c=[5]", "+a.e.f=6", "a.b=2", "a.b=3"])
    assert cfg == {"a": {"b": 3, "c": [5], "d": 4, "e": {"f": 6}}}


@pytest.mark.parametrize(
    "word, complaint",
    [
        ("train", "'train' does not change the config: write key=value"),
        ("=3", "'=3' does not change the config"),
        ("~a.b=1", "keys cannot be deleted"),
        ("a.b.c=3", "'a.b' is the value 1, which has no keys below it"),
    ],
)
def test_words_that_are_no_overrides_are_refused_by_name(word, complaint):
    with pytest.raises(ValueError, match=complaint):
        apply_overrides(OmegaConf.create({"a": {"b": 1}}), [word])


def test_text_in_place_of_a_number_or_list_is_warned_of():
    cfg = OmegaConf.create({"lr": 0.1, "names": [1], "dir": "x", "empty": None, "of": 2})
    found = apply_overrides(cfg, ["lr=1e-4x", "names=[a", "dir=~", "empty=~", "of=${lr}"])
    assert found == [
        "lr=1e-4x: 'lr' was 0.1 and is now the text '1e-4x'",
        "names=[a: 'names' was a list and is now the text '[a'",
    ]


# ---------------------------------------------------------------- the place of overrides


def parser():
    result = argparse.ArgumentParser()
    result.add_argument("names", nargs="*")
    result.add_argument("--config-file")
    result.add_argument("--input", nargs="+")
    result.add_argument("--output")
    result.add_argument("--quick", action="store_true")
    return result


def test_overrides_stand_anywhere_also_behind_lists_and_flags():
    args = parse_arguments(
        parser(), "--input a.jpg b=1 c.jpg --quick x.y=2 one --output out +z=[1]".split()
    )
    assert args.opts == ["b=1", "x.y=2", "+z=[1]"]
    assert (args.input, args.quick, args.output, args.names) == (
        ["a.jpg", "c.jpg"],
        True,
        "out",
        ["one"],
    )


def test_files_and_values_of_options_are_no_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3.jpg").touch()
    words = "--input lr=3.jpg shots/a=b.jpg --output dir=2 lr=4 -- lr=5".split()
    overrides, others = split_overrides(words, parser())
    assert overrides == ["lr=4"]
    assert others == "--input lr=3.jpg shots/a=b.jpg --output dir=2 -- lr=5".split()


def test_a_stray_word_of_the_training_command_is_an_error(capsys):
    words = ["--config-file", TOY, "train.max_iter=3", "resume"]
    with pytest.raises(SystemExit):
        parse_arguments(default_argument_parser(), words)
    assert "'resume' is neither an option nor a change of the config" in capsys.readouterr().err


def test_options_may_follow_overrides_of_the_training_command():
    words = ["train.max_iter=3", "--config-file", TOY, "--resume", "train.seed=1"]
    args = parse_arguments(default_argument_parser(), words)
    assert args.resume and args.opts == ["train.max_iter=3", "train.seed=1"]


# ---------------------------------------------------------------- configs


def test_configs_go_by_file_by_name_and_by_path_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(TOY, tmp_path / "mine.py")
    expected = model_zoo.get_config_file("co_dino/co_dino_digits")
    for name in ("co_dino/co_dino_digits", "co_dino/co_dino_digits.py"):
        assert config_path(name) == config_path(f"configs/{name}") == expected
    assert config_path("mine.py") == "mine.py"
    assert config_path("~/mine.py") == str(tmp_path / "mine.py")
    with pytest.raises(FileNotFoundError, match=r"nowhere/co_dino_digts is no file, .*digits"):
        config_path("nowhere/co_dino_digts")


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ZOO = ["--config-file", "co_deformable_detr/co_deformable_detr_digits"]


def test_predict_takes_names_and_overrides_behind_its_inputs():
    args = tool("predict").parse_args(
        [*ZOO, "--input", "a.jpg", "b.jpg", "train.init_checkpoint=~"]
    )
    assert args.input == ["a.jpg", "b.jpg"] and args.opts == ["train.init_checkpoint=~"]
    assert os.path.isfile(args.config_file)


def test_analyze_model_takes_names_and_overrides(monkeypatch, capsys):
    words = [*ZOO, "--input-size", "64", "64", "model.num_classes=3", "--depth", "1"]
    monkeypatch.setattr("sys.argv", ["analyze_model.py", *words])
    tool("analyze_model").main()
    assert "inference of one image of 64x64" in capsys.readouterr().out


def test_convert_checkpoint_takes_names_and_overrides(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["~/none.pth", "~/out.pth", *ZOO, "model.num_classes=3"]
    monkeypatch.setattr("sys.argv", ["convert_checkpoint.py", *words])
    with pytest.raises(SystemExit, match=f"{tmp_path}/none.pth"):
        tool("convert_checkpoint").main()


# ---------------------------------------------------------------- the home folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_home_folder_is_filled_in_everywhere_in_a_config(home):
    cfg = OmegaConf.create({"a": "~/x", "b": {"c": ["~", "a~b", "${a}"], "d": 1, "e": None}})
    expand_home(cfg)
    at = str(home)
    assert cfg == {"a": f"{at}/x", "b": {"c": [at, "a~b", f"{at}/x"], "d": 1, "e": None}}
    assert OmegaConf.to_container(cfg, resolve=False)["b"]["c"][2] == "${a}"


def test_a_run_goes_to_the_home_folder_and_starts_from_there(home, tmp_path):
    main(arguments("~/run", "train.max_iter=1"))
    weights = "train.init_checkpoint=~/run/model_final.pth"
    main(arguments("~/später, ja", weights, "train.max_iter=1"))
    assert (home / "run" / "model_final.pth").exists()
    assert (home / "später, ja" / "model_final.pth").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_detectron2_finds_files_in_the_home_folder(home):
    PathManager.mkdirs("~/new/folder")
    with PathManager.open("~/new/file.txt", "w") as file:
        file.write("x")
    assert (home / "new" / "file.txt").read_text() == "x"
    assert sorted(PathManager.ls("~/new")) == ["file.txt", "folder"]
    assert PathManager.isfile("~/new/file.txt") and PathManager.isdir("~/new/folder")
    assert PathManager.get_local_path("~/new/file.txt") == str(home / "new" / "file.txt")
    PathManager.rm("~/new/file.txt")
    assert not PathManager.exists("~/new/file.txt")


def test_datasets_in_the_home_folder_are_read(home):
    name = register(home / "data", num_classes=2, lvis=False)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    register_coco_instances(name, {}, "~/data/instances.json", "~/data/val2017")
    records = load_dataset(name)
    assert len(records) == 2
    with PathManager.open(records[0]["file_name"], "rb") as file:
        assert file.read(4) == b"\x89PNG"
