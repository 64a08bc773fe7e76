"""load_dataset: what it returns, and that each thing wrong with a dataset is named."""

import json
from types import SimpleNamespace

import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_lvis_instances

from co_detr.data import load_dataset


def test_images_without_annotations_are_kept(tiny):
    dicts = load_dataset(tiny.register())
    assert [len(record["annotations"]) for record in dicts] == [2, 1, 1, 0]


def test_images_without_annotations_can_be_left_out(tiny):
    assert [r["image_id"] for r in load_dataset(tiny.register(), filter_empty=True)] == [1, 2, 3]


def test_category_ids_become_contiguous_in_the_order_of_ids(tiny):
    dicts = load_dataset(tiny.register(), num_classes=2)
    assert [a["category_id"] for record in dicts for a in record["annotations"]] == [0, 1, 1, 0]


def test_unknown_name_is_answered_with_the_closest_one(tiny):
    name = tiny.register()
    with pytest.raises(KeyError, match=f"'{name}x'.*{name}"):
        load_dataset(name + "x")


def test_wrong_number_of_classes_names_both_numbers_and_the_remedy(tiny):
    with pytest.raises(ValueError, match=r"2 classes \(boat, lamp\).*predicts 80.*num_classes=2"):
        load_dataset(tiny.register(), num_classes=80)


@pytest.mark.parametrize("missing", ["annotation file", "image folder"])
def test_missing_files_are_named_with_the_remedy(tiny, tmp_path, missing):
    name = tiny.register()
    metadata = MetadataCatalog.get(name)
    paths = {"annotation file": metadata.json_file, "image folder": metadata.image_root}
    paths[missing] = str(tmp_path / "absent")
    broken = name + "_broken"
    register_coco_instances(broken, {}, paths["annotation file"], paths["image folder"])
    try:
        with pytest.raises(FileNotFoundError, match=f"{missing}.*absent.*DETECTRON2_DATASETS"):
            load_dataset(broken)
    finally:
        DatasetCatalog.remove(broken)
        MetadataCatalog.remove(broken)


def test_annotation_of_an_unlisted_category_is_named(tiny):
    tiny.content["annotations"][2]["category_id"] = 77
    with pytest.raises(ValueError, match="annotation 3 has category_id 77.*5, 9"):
        load_dataset(tiny.register())


def test_annotation_of_an_unlisted_image_is_named(tiny):
    tiny.content["annotations"][1]["image_id"] = 123
    with pytest.raises(ValueError, match="annotation 2 belongs to image 123"):
        load_dataset(tiny.register())


def test_repeated_image_id_is_named(tiny):
    tiny.content["images"][3]["id"] = 2
    with pytest.raises(ValueError, match="2 entries have the image id 2"):
        load_dataset(tiny.register())


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, float("nan"), 4],
        [1, float("inf"), 3, 4],
        [1, 2, 3],
        [1, 2, 3, 4, 0.5],
        [],
        None,
        "1, 2, 3, 4",
        [1, 2, "3 px", 4],
        [1, 2, None, 4],
    ],
)
def test_boxes_that_are_not_four_numbers_are_named(tiny, box):
    tiny.content["annotations"][0]["bbox"] = box
    with pytest.raises(ValueError, match="annotation 1 has the bbox.*four finite numbers"):
        load_dataset(tiny.register())


def test_a_file_that_is_no_json_is_named(tiny):
    name = tiny.register()
    with open(MetadataCatalog.get(name).json_file, "w") as file:
        file.write('{"images": [')
    with pytest.raises(ValueError, match="is no JSON file"):
        load_dataset(name)


@pytest.mark.parametrize(
    "key, value", [("height", None), ("width", 0), ("height", 40.5), ("width", "")]
)
def test_an_image_without_size_is_named(tiny, key, value):
    tiny.content["images"][2][key] = value
    with pytest.raises(ValueError, match="image 3 has height and width"):
        load_dataset(tiny.register())


def test_an_image_without_file_name_is_named(tiny):
    del tiny.content["images"][1]["file_name"]
    with pytest.raises(ValueError, match="image 2 has no file_name"):
        load_dataset(tiny.register())


def test_a_category_missing_from_the_file_is_named(tiny):
    del tiny.content["categories"][1]
    with pytest.raises(ValueError, match="annotation 1 has category_id 5.*it has 9"):
        load_dataset(tiny.register())


def test_a_file_of_another_kind_is_named(tiny):
    name = tiny.register()
    with open(MetadataCatalog.get(name).json_file, "w") as file:
        json.dump([{"image_id": 1, "bbox": [0, 0, 1, 1]}], file)
    with pytest.raises(ValueError, match="no COCO detection file.*`categories`"):
        load_dataset(name)


@pytest.mark.parametrize("box", [[5, 5, 0, 9], [30, 20, -10, 5], [60, 0, 5, 5], [-9, 3, 9, 9]])
def test_boxes_without_area_inside_the_image_are_left_out_and_counted(tiny, box, caplog):
    tiny.content["annotations"][0]["bbox"] = box  # image 1 is 60 wide, 40 high
    dicts = load_dataset(tiny.register())
    assert [len(record["annotations"]) for record in dicts] == [1, 1, 1, 0]
    assert "left out 1 annotations" in caplog.text


def test_a_box_that_sticks_out_is_kept(tiny):
    tiny.content["annotations"][0]["bbox"] = [55, 35, 50, 50]
    assert len(load_dataset(tiny.register())[0]["annotations"]) == 2


def test_training_needs_an_object_somewhere(tiny):
    for annotation in tiny.content["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(ValueError, match="none of the 4 images has an object to learn from"):
        load_dataset(tiny.register())


def test_evaluation_does_not_need_objects(tiny):
    tiny.content["annotations"] = []
    assert len(load_dataset(tiny.register(), is_train=False)) == 4


# ---------------------------------------------------------------- what training leaves out


def triangles(tiny):
    for annotation in tiny.content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]


def test_crowd_regions_are_counted(tiny, caplog):
    caplog.set_level("INFO")
    tiny.content["annotations"][1]["iscrowd"] = 1
    name = tiny.register()
    load_dataset(name)
    assert f"{name}: 1 annotations are crowd regions" in caplog.text


def test_objects_without_a_mask_are_left_out_where_masks_are_trained(tiny, caplog):
    triangles(tiny)
    tiny.content["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]  # a stroke
    tiny.content["annotations"][2]["segmentation"] = []
    name = tiny.register()
    assert [len(record["annotations"]) for record in load_dataset(name)] == [2, 1, 1, 0]
    dicts = load_dataset(name, masks=True)
    assert [[a["category_id"] for a in record["annotations"]] for record in dicts] == [
        [1],
        [],
        [0],
        [],
    ]
    assert "1 annotations have polygons of fewer than three points" in caplog.text
    assert f"{name}: left out 2 objects without a mask in training" in caplog.text


def test_evaluation_leaves_no_object_out_for_its_mask(tiny):
    triangles(tiny)
    del tiny.content["annotations"][0]["segmentation"]
    dicts = load_dataset(tiny.register(), is_train=False, masks=True)
    assert [len(record["annotations"]) for record in dicts] == [2, 1, 1, 0]


def test_masks_cannot_be_trained_without_any(tiny):
    with pytest.raises(
        ValueError, match="none of the 4 objects has a mask.*use_instance_mask=False"
    ):
        load_dataset(tiny.register(), masks=True)


def test_data_of_crowd_regions_alone_says_what_iscrowd_is_for(tiny):
    for annotation in tiny.content["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(
        ValueError, match="4 annotations are crowd regions.*regions of many objects"
    ):
        load_dataset(tiny.register())


# ---------------------------------------------------------------- several datasets, metadata


def test_datasets_are_concatenated(tiny):
    names = [tiny.register(), tiny.register()]
    assert [record["image_id"] for record in load_dataset(names)] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_datasets_with_other_classes_are_not(tiny):
    first = tiny.register()
    tiny.content["categories"][0]["name"] = "buoy"
    with pytest.raises(ValueError, match=f"other classes than {first}.*buoy.*lamp"):
        load_dataset([first, tiny.register()])


def test_classes_that_were_registered_must_be_those_of_the_file(tiny):
    name = tiny.register()
    MetadataCatalog.get(name).thing_classes = ["boat", "lantern"]
    with pytest.raises(ValueError, match="registered with the classes.*lantern.*boat, lamp"):
        load_dataset(name)


def test_repaired_ids_and_names_replace_those_that_detectron2_has_read(tiny):
    """A script may have loaded the dataset before, without repairs."""
    for category in tiny.content["categories"]:
        category.update(id=str(category["id"]), name="boat")
    for annotation in tiny.content["annotations"]:
        annotation["category_id"] = str(annotation["category_id"])
    name = tiny.register()
    DatasetCatalog.get(name)
    load_dataset(name)
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_dataset_id_to_contiguous_id == {5: 0, 9: 1}
    assert metadata.thing_classes == ["boat (id 5)", "boat (id 9)"]


def test_run_lengths_become_those_of_pycocotools(tiny):
    runs = {"size": [40, 60], "counts": [90, 3, 2307]}
    tiny.content["annotations"][0]["segmentation"] = runs
    (first, second), *_ = (record["annotations"] for record in load_dataset(tiny.register()))
    assert mask_util.area(first["segmentation"]) == 3
    assert "segmentation" not in second


# ---------------------------------------------------------------- LVIS format


@pytest.fixture
def lvis(tiny, tmp_path):
    """The tiny dataset in LVIS format: category ids 1 and 2, polygons, frequencies.

    `register()` writes `content` as it is by then, registers it and returns the name.
    """
    content = tiny.content
    for category, new_id in zip(content["categories"], (2, 1)):
        category.update(id=new_id, image_count=2, frequency="r", synonyms=[category["name"]])
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["category_id"] = {5: 1, 9: 2}[annotation["category_id"]]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    for image in content["images"]:
        image["coco_url"] = f"somewhere/pictures/{image['file_name']}"
    json_file = tmp_path / "lvis.json"
    names = []

    def register():
        json_file.write_text(json.dumps(content))
        names.append("tiny_lvis")
        register_lvis_instances("tiny_lvis", {}, str(json_file), str(tmp_path))
        return "tiny_lvis"

    yield SimpleNamespace(content=content, register=register)
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_lvis_files_load_and_bring_frequencies(lvis):
    dicts = load_dataset(lvis.register(), num_classes=2)
    assert [[a["category_id"] for a in r["annotations"]] for r in dicts] == [[0, 1], [1], [0], []]
    counts = [{"id": 1, "image_count": 2}, {"id": 2, "image_count": 2}]
    assert MetadataCatalog.get("tiny_lvis").class_image_count == counts


def test_lvis_categories_with_gaps_are_refused(lvis):
    lvis.content["categories"][0]["id"] = 7
    for annotation in lvis.content["annotations"]:
        annotation["category_id"] = 7
    with pytest.raises(ValueError, match="category ids 1, 7.*from 1 to their number, 2"):
        load_dataset(lvis.register())


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda c: c["images"][3].update(id=2), "2 entries have the image id 2"),
        (lambda c: c["annotations"][0].update(category_id=3), "annotation 1 has category_id 3"),
        (lambda c: c["annotations"][0].update(image_id=8), "annotation 1 belongs to image 8"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 1]), "four finite numbers"),
    ],
)
def test_contradictions_in_lvis_files_are_named(lvis, spoil, message):
    spoil(lvis.content)
    with pytest.raises(ValueError, match=message):
        load_dataset(lvis.register())
