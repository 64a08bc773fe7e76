"""Data sets with a value in each place in turn that has no business there: whatever does not mean
something is refused by an error that names the file, and never by one of Python's own."""

import copy
import json
import re

import pytest
from pets import PICTURES, coco, save_pictures
from test_formats import label_studio, objects_of, voc, write_yolo

from co_detr.cli.main import main
from co_detr.data.formats import read_data
from co_detr.data.formats.split import natural_order
from co_detr.data.formats.yolo import class_names, load_settings

ABSENT = object()
IN_JSON = [None, "", "x", float("nan"), float("inf"), -1, 10**400, [], {}, [None], {"a": 1}, ABSENT]
IN_TEXT = ["", " ", "x", "nan", "inf", "-1", "1e400", "²", "9" * 30]


def places(value, path=()):
    """The paths to all values of a JSON document, the document's own aside."""
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def with_value(content, path, value):
    content = copy.deepcopy(content)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if value is ABSENT:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return json.dumps(content)


def broken_json(text):
    content = json.loads(text)
    # COCO's lists have entries of one kind: the first of each will do
    paths = [path for path in places(content) if path[1:2] != (1,)]
    return [with_value(content, path, value) for path in paths for value in IN_JSON]


def broken_text(pattern):
    def broken(text):
        spans = [match.span() for match in re.finditer(pattern, text)]
        return [text[:start] + value + text[end:] for start, end in spans for value in IN_TEXT]

    return broken


def coco_with_masks():
    content = coco()
    content["annotations"][0]["segmentation"] = [[10, 5, 40, 5, 40, 25]]
    content["annotations"][1]["segmentation"] = {"size": [50, 100], "counts": [10, 20, 4970]}
    return json.dumps(content)


def cvat():
    shapes = (
        '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" rotation="10"/>'
        '<polygon label="dog" points="1,1;20,1;20,20"/>'
        '<ellipse label="cat" cx="9" cy="9" rx="3" ry="4"/>'
        '<mask label="cat" left="3" top="4" width="5" height="6"/>'
    )
    label = "<meta><labels><label><name>cat</name></label></labels></meta>"
    return f'<annotations>{label}<image name="a.png" subset="x">{shapes}</image></annotations>'


def in_label_studio(minimal):
    return json.dumps([label_studio(name, minimal) for name in PICTURES])


YAML = "train: images/train\nval: [images/train]\nnames: [cat, dog]\nkpt_shape: [2, 3]\n"
LABELS = "0 0.25 0.3 0.3 0.4\n1 0.1 0.1 0.5 0.1 0.3 0.8\n"

FORMATS = {
    "COCO": ("train/labels.json", coco_with_masks(), broken_json),
    "Label Studio": ("project.json", in_label_studio(minimal=False), broken_json),
    "Label Studio, JSON-MIN": ("project.json", in_label_studio(minimal=True), broken_json),
    "CVAT": ("annotations.xml", cvat(), broken_text(r'(?<=")[^"<>=]*(?=")|(?<=<name>)\w+')),
    "Pascal VOC": ("a.xml", voc("a.png", shift=1), broken_text(r"(?<=>)[^<>]+(?=<)")),
    "YOLO's labels": ("labels/train/a.txt", LABELS, broken_text(r"\S+")),
    "YOLO's data.yaml": ("data.yaml", YAML, broken_text(r"[^\s:,\[\]]+|\[.*\]")),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_means_nothing_is_refused_by_the_name_of_its_file(tmp_path, kind):
    name, text, broken = FORMATS[kind]
    if kind.startswith("YOLO"):
        write_yolo(tmp_path)
        (tmp_path / "data.yaml").write_text(YAML)
    else:
        save_pictures(tmp_path / name.rpartition("/")[0])
    file = tmp_path / name
    file.write_text(text)
    read_data(tmp_path)

    refused = 0
    for content in broken(text):
        file.write_text(content)
        try:
            read_data(tmp_path)
        except (ValueError, OSError) as error:
            assert str(tmp_path) in str(error), (content, error)
            refused += 1
        except Exception as error:
            raise AssertionError(content) from error
    assert refused


@pytest.mark.parametrize("edge", ["nan", "inf", "-inf", "1e400", "", "x"])
def test_voc_edges_must_be_finite(tmp_path, edge):
    save_pictures(tmp_path)
    text = voc("a.png", shift=1).replace("<ymax>25<", f"<ymax>{edge}<")
    assert f"<ymax>{edge}<" in text
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.xml: object number 1 lacks"):
        read_data(tmp_path)


def test_a_box_that_is_not_finite_is_named_by_its_picture(tmp_path):
    with pytest.raises(ValueError, match=r"number 2 of a\.png, 'dog', has the box nan, .*finite"):
        objects_of(tmp_path, "0 0.5 0.5 0.1 0.1\n1 nan 0.5 0.1 0.1\n")


def test_label_studio_names_the_task_that_is_none(tmp_path):
    tasks = [label_studio("a.png", False), label_studio("b.png", False)]
    tasks[1]["annotations"][1]["result"][0]["value"]["rectanglelabels"] = [None]
    save_pictures(tmp_path)
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=r"project\.json: task number 2 .*labels \[None\]"):
        read_data(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_in_another_encoding_is_refused_by_the_name_of_its_file(tmp_path, encoding):
    write_yolo(tmp_path)
    (tmp_path / "classes.txt").write_bytes("café\ndog\n".encode(encoding))
    with pytest.raises(ValueError, match=r"classes\.txt is no text in UTF-8.* save it as UTF-8"):
        read_data(tmp_path)


@pytest.mark.parametrize("file", ["a.xml", "annotations.xml"])
@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "utf-7", "no-such-encoding"])
def test_xml_in_another_encoding_is_refused_by_the_name_of_its_file(tmp_path, file, encoding):
    """Python's reader of XML knows no encoding of several bytes but Unicode's own."""
    text = voc("a.png", shift=1) if file == "a.xml" else cvat()
    save_pictures(tmp_path)
    (tmp_path / file).write_text(f'<?xml version="1.0" encoding="{encoding}"?>\n{text}')
    with pytest.raises(ValueError, match=rf"{file} is XML in an encoding.*: save it as UTF-8"):
        read_data(tmp_path)


@pytest.mark.parametrize("value", ["2024-13-45", "!!int x", "!!timestamp x", "!!bool x"])
def test_yaml_with_an_impossible_value_is_refused_by_the_name_of_its_file(tmp_path, value):
    (tmp_path / "data.yaml").write_text(f"date: {value}\ntrain: images\nnames: [cat]\n")
    with pytest.raises(ValueError, match=r"data\.yaml is no YAML file"):
        load_settings(tmp_path / "data.yaml")
    # beside a data set of another format, it is one of the files that do not matter
    save_pictures(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps(coco()))
    assert read_data(tmp_path)[0] == "COCO"


@pytest.mark.parametrize(
    "key, settings",
    [
        ("names", "train: images\nnames: [*many]"),
        ("names", "train: images\nnames: {0: *many}"),
        ("names", "train: images\nnames: [cat, ~]"),
        ("train, val or test", "train: [*many]\nnames: [cat]"),
        ("path", "path: *many\ntrain: images\nnames: [cat]"),
    ],
)
def test_names_in_yaml_are_text_or_numbers(tmp_path, key, settings):
    """By references, a few lines more of this kind make lists whose text fills the memory."""
    (tmp_path / "data.yaml").write_text(f"x: &two [a, b]\ny: &many [*two, *two]\n{settings}\n")
    with pytest.raises(ValueError, match=rf"data\.yaml: `{key}` has a value of the type .*: write"):
        read_data(tmp_path)


def test_names_of_numbers_are_their_text(tmp_path):
    file = tmp_path / "data.yaml"
    assert class_names({"names": [7, 0.5, True, "cat"]}, file) == ["7", "0.5", "True", "cat"]
    assert class_names({"names": {1: 7}}, file) == ["class 0", "7"]


def test_the_mark_that_editors_put_in_front_of_utf8_is_no_part_of_the_text(tmp_path):
    write_yolo(tmp_path, "images", "labels")
    for file in (tmp_path / "classes.txt", tmp_path / "labels/a.txt"):
        text = file.read_text() if file.exists() else "cat\ndog\n"
        file.write_text(text, encoding="utf-8-sig")
    _, (split,) = read_data(tmp_path)
    assert split.class_names == ["cat", "dog"] and len(split.content["annotations"]) == 3


def test_lists_of_splits_may_have_blank_lines(tmp_path):
    save_pictures(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(voc("a.png", shift=1))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n  \na\n")
    assert [split.name for split in read_data(tmp_path)[1]] == ["train"]


def test_raised_digits_are_no_numbers_to_sort_by():
    assert natural_order(["10 m²", "²", "9 m²"]) == ["9 m²", "10 m²", "²"]


def test_a_broken_file_beside_good_ones_is_a_fault(tmp_path, capsys):
    for split in ("train", "valid"):
        save_pictures(tmp_path / split)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(coco()))
    broken = tmp_path / "train/_annotations.coco.json"
    broken.write_text(broken.read_text()[:-20])
    _, (split,) = read_data(tmp_path)
    assert [f"left out {broken}" in note for note in split.notes] == [True]
    (tmp_path / "settings.json").write_text("{}")  # of something else
    for word in ("valid", "all"):
        (tmp_path / "valid").rename(tmp_path / word)
        assert main(["check", str(tmp_path)]) == 1
        shown = capsys.readouterr().out
        assert f"\nfault: left out {broken}, which is no JSON file (" in shown
        assert shown.count("left out") == 1 and "settings" not in shown
        (tmp_path / word).rename(tmp_path / "valid")
    argv = ["new", str(tmp_path / "x.py"), "--data", str(tmp_path), "--model", "co_dino_digits"]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "nothing to train on" in error and f"left out {broken}" in error


def test_a_broken_file_beside_one_of_no_split_is_a_fault_of_the_others(tmp_path):
    for name in ("all.json", "x/val.json"):
        save_pictures((tmp_path / name).parent)
        (tmp_path / name).write_text(json.dumps(coco()))
    (tmp_path / "train.json").write_text("{")
    _, (split,) = read_data(tmp_path)
    assert split.name == "val" and "train.json" in split.faults[0]


@pytest.mark.parametrize("name", ["train.json", "data.yaml"])
def test_broken_files_are_named_where_nothing_else_is_known(tmp_path, name):
    save_pictures(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(ValueError, match=rf"(?s)format \(.*; .*{name}.* is no .*\). Known"):
        read_data(tmp_path)


def test_a_broken_file_that_a_config_names_is_named(tmp_path, capsys):
    config = (
        "from co_detr.data import register_split\nfrom co_detr.model_zoo import get_sections\n"
        'dataloader, model, train = get_sections("co_dino/co_dino_digits")[:3]\n'
        f"register_split('cut', {str(tmp_path / 'cut.json')!r}, {str(tmp_path)!r})\n"
        "dataloader.train.dataset.names = dataloader.test.dataset.names = 'cut'\n"
    )
    (tmp_path / "cut.py").write_text(config)
    (tmp_path / "cut.json").write_text("{")
    assert main(["check", str(tmp_path / "cut.py")]) == 1
    assert f"cut: {tmp_path / 'cut.json'} is no JSON file (" in capsys.readouterr().err


def test_ids_of_several_types_are_one_when_classes_are_brought_together(tmp_path, capsys):
    for split, ids in (("train", (1, 2)), ("valid", ("1", "2"))):
        content = coco()
        for category, category_id in zip(content["categories"], ids):
            category["id"] = category_id
        if split == "valid":
            content["categories"].append({"id": 3, "name": "cow"})
        save_pictures(tmp_path / split)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    argv = ["new", str(tmp_path / "x.py"), "--data", str(tmp_path), "--model", "co_dino_digits"]
    main([*argv, "--quick"])
    assert "cow" in capsys.readouterr().out
    written = json.loads((tmp_path / "x_data/val.json").read_text())
    assert [a["category_id"] for a in written["annotations"]] == [1, 2, 1]
