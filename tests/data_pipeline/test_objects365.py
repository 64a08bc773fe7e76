"""Objects365: where its files lie, and that classes come from the annotation file."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from co_detr.data import load_dataset
from co_detr.data.objects365 import register_objects365


@pytest.fixture
def registered(tmp_path):
    """Registers a folder of two images as another name, which leaves the catalogs afterwards."""
    content = {
        "categories": [{"id": 365, "name": "Table Tennis"}, {"id": 1, "name": "Person"}],
        "images": [
            {"id": 8, "file_name": "images/v2/patch16/objects365_v2_00900001.jpg"},
            {"id": 3, "file_name": "images/v1/patch0/objects365_v1_00000003.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 8, "category_id": 365, "bbox": [1, 2, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }
    for image in content["images"]:
        image.update(height=60, width=80)
    folder = tmp_path / "objects365" / "annotations"
    folder.mkdir(parents=True)
    (folder / "zhiyuan_objv2_train.json").write_text(json.dumps(content))
    (tmp_path / "objects365" / "train").mkdir()
    register_objects365(str(tmp_path), "temporary_objects")
    names = ["temporary_objects_train", "temporary_objects_val"]
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_images_lie_in_patches_of_the_split(registered, tmp_path):
    files = [record["file_name"] for record in load_dataset(registered[0])]
    root = tmp_path / "objects365" / "train"
    assert files == [
        str(root / "patch0" / "objects365_v1_00000003.jpg"),
        str(root / "patch16" / "objects365_v2_00900001.jpg"),
    ]


def test_classes_are_those_of_the_file_in_the_order_of_their_ids(registered):
    dicts = load_dataset(registered[0], num_classes=2)
    assert MetadataCatalog.get(registered[0]).thing_classes == ["Person", "Table Tennis"]
    assert [a["category_id"] for record in dicts for a in record["annotations"]] == [0, 1]


def test_missing_files_are_named(registered):
    with pytest.raises(FileNotFoundError, match="zhiyuan_objv2_val.json.*DETECTRON2_DATASETS"):
        load_dataset(registered[1])


def test_it_is_registered_by_importing_the_data_package():
    assert {"objects365_v2_train", "objects365_v2_val"} <= set(DatasetCatalog.list())
    assert MetadataCatalog.get("objects365_v2_val").json_file.endswith("zhiyuan_objv2_val.json")
