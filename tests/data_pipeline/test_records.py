"""Datasets that are registered with a function of the user's own."""

import copy
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from co_detr.data.dataset import load_dataset
from co_detr.data.loader import build_train_loader
from co_detr.data.mapper import DetectionMapper

ABSENT = object()


@pytest.fixture
def load(tmp_path):
    """Loads a dataset "mine", whose one record goes to `change` first."""
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    annotation = {"bbox": [10, 5, 40, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    size = {"height": 50, "width": 100, "image_id": 1}
    record = {"file_name": str(tmp_path / "a.png"), "annotations": [annotation], **size}
    MetadataCatalog.get("mine").thing_classes = ["cat", "dog"]

    def loaded(change):
        changed = copy.deepcopy(record)
        change(changed)
        DatasetCatalog.register("mine", lambda: [changed])
        return load_dataset("mine", num_classes=2)

    yield loaded
    DatasetCatalog.remove("mine")
    MetadataCatalog.remove("mine")


def of_annotation(key, value):
    def change(record):
        if value is ABSENT:
            del record["annotations"][0][key]
        else:
            record["annotations"][0][key] = value

    return change


@pytest.mark.parametrize(
    "box, mode",
    [
        ((10, 5, 40, 25), BoxMode.XYXY_ABS),
        (np.array([10, 5, 30, 20], np.float32), int(BoxMode.XYWH_ABS)),
    ],
)
def test_boxes_may_be_any_sequence_in_any_mode(load, box, mode):
    (record,) = load(lambda r: r["annotations"][0].update(bbox=box, bbox_mode=mode))
    mapper = DetectionMapper(is_train=True, augmentations=[T.NoOpTransform()], image_format="RGB")
    instances = mapper(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[10, 5, 40, 25]]
    assert instances.gt_classes.tolist() == [1]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("bbox", ABSENT, "bbox None, which must be 4 finite numbers"),
        ("bbox", [1, 2, 3], r"bbox [1, 2, 3], which"),
        ("bbox", [1, 2, 3, float("nan")], "bbox [1, 2, 3, nan], which"),
        ("bbox", [1, 2, 3, 10**400], "which must be 4 finite numbers"),
        ("bbox", "abcd", "bbox 'abcd', which"),
        ("bbox_mode", ABSENT, "bbox_mode None, which must be one of detectron2's BoxMode"),
        ("bbox_mode", 77, "bbox_mode 77"),
        ("bbox_mode", "XYXY_ABS", "bbox_mode 'XYXY_ABS'"),
        ("category_id", ABSENT, "category_id None, which must be the number of a class"),
        ("category_id", 2, "category_id 2, which must be the number of a class, from 0 to 1"),
        ("category_id", -1, "category_id -1"),
        ("category_id", "1", "category_id '1'"),
        ("category_id", 0.5, "category_id 0.5"),
    ],
)
def test_faulty_annotations_are_refused(load, key, value, message):
    match = r"mine: record 0, of '.*a\.png', has an annotation with the " + re.escape(message)
    if message.startswith("which"):
        match = re.escape(message)
    with pytest.raises(ValueError, match=match) as refused:
        load(of_annotation(key, value))
    assert "Correct the function that mine is registered with" in str(refused.value)


@pytest.mark.parametrize(
    "records, message",
    [
        ([], "has no images"),
        ("ab", "has no list of records, but a value of the type str"),
        (None, "has no list of records, but a value of the type NoneType"),
        ([5], "record 0 is 5, no dict"),
        ([{"annotations": {}}], r"record 0, of None, has annotations {}, no list"),
        ([{"annotations": [5]}], "has an annotation 5, which is no dict"),
        ([{"height": "50"}], "has the height '50', no number of pixels"),
        ([{"width": 0}], "has the width 0, no number of pixels"),
    ],
)
def test_what_is_no_list_of_records_is_refused(records, message):
    DatasetCatalog.register("theirs", lambda: records)
    try:
        with pytest.raises(ValueError, match=f"theirs:? .*{re.escape(message)}"):
            load_dataset("theirs")
    finally:
        DatasetCatalog.remove("theirs")


@pytest.mark.parametrize(
    "names, num_classes, labels",
    [
        ("nameless", 10, "from 0 to 9, as the model predicts 10 classes"),
        (["named", "nameless"], None, "from 0 to 1"),
        (["nameless", "named"], 2, "from 0 to 1, as the model predicts 2 classes"),
    ],
)
def test_labels_without_names_of_classes_are_bounded(names, num_classes, labels):
    def records(label):
        annotation = {"bbox": [1, 1, 5, 5], "bbox_mode": 0, "category_id": label}
        return [{"file_name": "a.png", "height": 9, "width": 9, "annotations": [annotation]}]

    DatasetCatalog.register("named", lambda: records(1))
    MetadataCatalog.get("named").thing_classes = ["cat", "dog"]
    DatasetCatalog.register("nameless", lambda: records(10))
    match = rf"nameless: record 0, .* category_id 10, which must be .*, {labels}\. Correct the"
    try:
        with pytest.raises(ValueError, match=match):
            load_dataset(names, num_classes=num_classes)
        assert load_dataset("nameless") and load_dataset("nameless", num_classes=11)
    finally:
        for name in ("named", "nameless"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_a_function_that_fails_is_named_by_its_dataset():
    DatasetCatalog.register("theirs", lambda: 1 / 0)
    try:
        with pytest.raises(ValueError, match="theirs: the function .* raised ZeroDivisionError: d"):
            load_dataset("theirs")
    finally:
        DatasetCatalog.remove("theirs")


@pytest.mark.parametrize("key", ["height", "width"])
def test_a_record_needs_its_size_where_wide_pictures_go_together(load, key):
    records = load(lambda record: record.pop(key))
    options = {"mapper": lambda record: record, "total_batch_size": 1, "num_workers": 0}
    with pytest.raises(ValueError, match=rf"record 0, of '.*a\.png', has no {key}, .*Correct the"):
        build_train_loader(records, **options)
    loader = build_train_loader(records, aspect_ratio_grouping=False, **options)
    assert next(iter(loader))


@pytest.mark.parametrize("name", [None, 5, ABSENT])
def test_a_record_needs_the_path_of_its_picture(load, name):
    def change(record):
        record["file_name"] = name
        if name is ABSENT:
            del record["file_name"]

    (record,) = load(change)
    mapper = DetectionMapper(is_train=True, augmentations=[], image_format="RGB")
    with pytest.raises(ValueError, match="a record has the file_name .*: it must be a path"):
        mapper(record)
