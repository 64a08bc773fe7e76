"""Files of class names as people write them, and names that are known without a file."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import OmegaConf

from co_detr.checkpoint.class_names import classes_of_config, known_by_number, read_names, same

WANTED = ["person", "traffic light", "dog"]
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 1, "name": "person"}]
CATEGORIES += [{"id": 2, "name": "traffic light"}]
FILES = {
    "one a line": ("names.txt", "person\ntraffic light\ndog\n"),
    "no newline at the end": ("names.txt", "person\ntraffic light\ndog"),
    "as Windows writes": ("names.txt", "\ufeffperson\r\ntraffic light\r\ndog\r\n"),
    "blank lines, spaces, comments": ("c.names", "# mine\n\n person \n\ntraffic light\t\ndog\n\n"),
    "commas": ("names.txt", "person, traffic light, dog\n"),
    "a list in Python": ("names.txt", "'person',\n'traffic light',\n'dog',\n"),
    "a tuple in Python": ("names.txt", "('person', 'traffic light', 'dog')\n"),
    "numbered": ("names.txt", "0: person\n1: traffic light\n2: dog\n"),
    "numbered, in another order": ("names.csv", "2,traffic light\n7,dog\n1,person\n"),
    "counted": ("names.txt", "1 person\n2 traffic light\n3 dog\n"),
    "COCO": ("coco.json", json.dumps({"images": [], "categories": CATEGORIES})),
    "COCO with text ids": (
        "coco.json",
        json.dumps({"categories": [c | {"id": str(c["id"])} for c in CATEGORIES]}),
    ),
    "categories alone": ("names.json", json.dumps(CATEGORIES)),
    "a list": ("names.json", json.dumps(WANTED)),
    "by number": ("names.json", json.dumps({"2": "dog", "0": "person", "1": "traffic light"})),
    "by name": ("names.json", json.dumps({"dog": 2, "person": 0, "traffic light": 1})),
    "a config of transformers": ("config.json", json.dumps({"id2label": dict(enumerate(WANTED))})),
    "json with another suffix": ("names.txt", json.dumps(WANTED)),
    "YOLO": ("data.yaml", "path: x\nnc: 3\nnames:\n  0: person\n  1: traffic light\n  2: dog\n"),
    "YOLO, in brackets": ("data.yml", "nc: 3\nnames: ['person', 'traffic light', 'dog']\n"),
}


@pytest.mark.parametrize("name, text", FILES.values(), ids=FILES)
def test_names_are_read_as_people_write_them(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert read_names(tmp_path / name) == WANTED


def test_other_encodings(tmp_path):
    for encoding in ("utf-8", "utf-16", "latin1"):
        (tmp_path / "names.txt").write_bytes("Tür\nBär\n".encode(encoding))
        assert read_names(tmp_path / "names.txt") == ["Tür", "Bär"]


def test_digits_and_numbers_in_names_are_names(tmp_path):
    for names in (["0", "1", "2"], ["7 up", "2 liter bottle"], ["3d", "4 wheels"]):
        (tmp_path / "names.txt").write_text("\n".join(names))
        assert read_names(tmp_path / "names.txt") == names


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no class names"),
        ("# nothing\n\n", "holds no class names"),
        ('{"images": []}', "holds no class names"),
        ("{'a': [", "neither JSON nor YAML"),
        ("cat\ndog\nCat\n", "class names cat more than once"),
        ("[" * 100_000, "neither JSON nor YAML"),
        ("\N{BYTE ORDER MARK}cat\n".encode("utf-16-le")[:-1], "is no text .*: save it as UTF-8"),
    ],
)
def test_files_without_clear_names_are_refused(tmp_path, text, message):
    (tmp_path / "names.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_names(tmp_path / "names.txt")
    assert str(tmp_path / "names.txt") in str(error.value)


@pytest.mark.parametrize("category_id", [None, "", "a", [1], float("inf")])
def test_categories_without_numbers_stay_in_their_order(tmp_path, category_id):
    categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}]
    (tmp_path / "names.json").write_text(json.dumps({"categories": categories}))
    assert read_names(tmp_path / "names.json") == ["cat", "dog"]
    categories[1]["id"] = category_id
    (tmp_path / "names.json").write_text(json.dumps({"categories": categories}))
    assert read_names(tmp_path / "names.json") == ["dog", "cat"]


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_names("nowhere.txt")


def test_spellings_of_one_class():
    assert same(" Dining_Table") == same("dining table") == same("dining-table")
    assert same("table") != same("tables")


def test_eighty_classes_are_those_of_coco():
    names = known_by_number(80)
    assert (names[0], names[56], names[79]) == ("person", "chair", "toothbrush")
    assert known_by_number(7) is None


@pytest.fixture
def dataset(tmp_path):
    """Registers an annotation file with given content under the name it yields."""
    file = tmp_path / "instances.json"
    register_coco_instances("named_pictures", {}, str(file), str(tmp_path))
    yield file
    DatasetCatalog.remove("named_pictures")
    MetadataCatalog.remove("named_pictures")


def test_classes_of_a_config_are_those_of_its_annotation_file(dataset):
    cfg = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": "named_pictures"}}}})
    assert classes_of_config(cfg) is None  # there is no file yet
    dataset.write_text(json.dumps({"categories": CATEGORIES}))
    assert classes_of_config(cfg) == ("person", "traffic light", "dog")
    assert classes_of_config(cfg, "test") is None
    for broken in ("not json", "[" * 100_000, "[]", '{"categories": ["cat"]}'):
        dataset.write_text(broken)  # the check of the dataset says so
        assert classes_of_config(cfg) is None
    MetadataCatalog.get("named_pictures").thing_classes = ["a", "b"]
    assert classes_of_config(cfg) == ("a", "b")


def test_classes_of_lvis_are_called_by_their_first_synonym(dataset):
    MetadataCatalog.remove("named_pictures")
    MetadataCatalog.get("named_pictures").set(json_file=str(dataset), evaluator_type="lvis")
    categories = [{"id": 1, "name": "baby_buggy", "synonyms": ["baby_buggy_(a)", "pram"]}]
    dataset.write_text(json.dumps({"categories": categories}))
    cfg = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": ["named_pictures"]}}}})
    assert classes_of_config(cfg) == ("baby_buggy_(a)",)
