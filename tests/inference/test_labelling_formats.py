"""Detections written for labelling tools, against numbers worked out by hand."""

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask as mask_util
import pytest
import supervision
from PIL import Image

from co_detr.inference.formats import FORMATS
from co_detr.inference.names import TOP_LEVEL

NAMES = ["cat", 'dog "Rex" & <co>']


@pytest.fixture
def coco(tmp_path):
    """Two detections on one picture of 200x100, none on another."""
    pictures = []
    for number, size in enumerate([(200, 100), (50, 50)], start=1):
        path = tmp_path / f"picture {number}.png"
        Image.new("RGB", size).save(path)
        image = {"id": number, "file_name": str(path), "width": size[0], "height": size[1]}
        pictures.append(image)
    found = [
        {"image_id": 1, "category_id": 7, "bbox": [20, 10, 100, 50], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 200, 100], "score": 0.5},
    ]
    categories = [{"id": 3, "name": NAMES[0]}, {"id": 7, "name": NAMES[1]}]
    return {"images": pictures, "categories": categories, "annotations": found}


def write(files, folder):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_csv_has_corners_and_names(coco):
    (text,) = FORMATS["csv"](coco).values()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["class"] for row in rows] == NAMES[::-1]
    assert [rows[0][column] for column in ("x1", "y1", "x2", "y2", "score")] == [
        *("20", "10", "120", "60"),
        "0.9",
    ]


def test_yolo_is_read_back_by_supervision(coco, tmp_path):
    files = FORMATS["yolo"](coco)
    assert files["labels/picture 1.txt"].splitlines()[0] == "1 0.35000 0.35000 0.50000 0.50000"
    assert files["labels/picture 2.txt"] == ""
    write(files, tmp_path)
    read = supervision.DetectionDataset.from_yolo(
        str(tmp_path), str(tmp_path / "labels"), str(tmp_path / "data.yaml")
    )
    assert read.classes == NAMES
    boxes = {path: found.xyxy.round(3).tolist() for path, _, found in read}
    assert boxes[str(tmp_path / "picture 1.png")] == [[20, 10, 120, 60], [0, 0, 200, 100]]
    assert boxes[str(tmp_path / "picture 2.png")] == []


def test_masks_become_polygons(coco):
    for annotation, (x1, y1, x2, y2) in zip(
        coco["annotations"], [(20, 10, 120, 60), (0, 0, 200, 100)]
    ):
        mask = np.zeros((100, 200), dtype=np.uint8, order="F")
        mask[y1:y2, x1:x2] = 1
        annotation["segmentation"] = mask_util.encode(mask)
    line = FORMATS["yolo"](coco)["labels/picture 1.txt"].splitlines()[0].split()
    xs, ys = np.array(line[1::2], dtype=float), np.array(line[2::2], dtype=float)
    assert line[0] == "1"
    assert (xs.min(), ys.min()) == pytest.approx((0.1, 0.1))
    assert (xs.max(), ys.max()) == pytest.approx((119 / 200, 59 / 100))


def test_pictures_of_one_name_have_no_place_in_yolo(coco):
    coco["images"][1]["file_name"] = "/elsewhere/picture 1.jpg"
    with pytest.raises(ValueError, match="picture 1.*/elsewhere/picture 1.jpg"):
        FORMATS["yolo"](coco)


def test_label_studio_gets_percent_and_an_interface_that_names_the_same(coco, tmp_path):
    files = FORMATS["labelstudio"](coco)
    first, second = json.loads(files["labelstudio.json"])
    (prediction,) = first["predictions"]
    box = prediction["result"][0]
    assert box["value"] == {
        **{"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0},
        "rectanglelabels": [NAMES[1]],
    }
    assert (prediction["score"], box["score"]) == (0.7, 0.9)
    assert second["predictions"][0]["result"] == []
    local = str(tmp_path / "picture%201.png").lstrip("/")
    assert first["data"]["image"] == f"/data/local-files/?d={local}"

    view = ElementTree.fromstring(files["labelstudio.xml"])
    labels = view.find("RectangleLabels")
    assert [label.get("value") for label in labels] == NAMES
    assert (labels.get("name"), labels.get("toName")) == (box["from_name"], box["to_name"])
    assert view.find("Image").get("name") == box["to_name"]
    assert view.find("Image").get("value") == "$image"


@pytest.mark.parametrize("name", FORMATS)
def test_top_level_names_are_those_of_the_files(coco, name):
    files = FORMATS[name](coco)
    assert {path.partition("/")[0] for path in files} == set(TOP_LEVEL[name])
