"""The digits dataset: deterministic, tight boxes, and no scan or photo shared by the splits."""

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image

from co_detr.data import load_dataset
from co_detr.data.digits import register_digits

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_digits.py"
_spec = importlib.util.spec_from_file_location("prepare_digits", SCRIPT)
prepare_digits = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(prepare_digits)

TRAIN, VAL = prepare_digits.SPLITS


def _first(split, number):
    return list(itertools.islice(prepare_digits.generate_split(split), number))


def test_the_same_images_come_out_every_time():
    for (image, objects), (again, objects_again) in zip(_first(VAL, 20), _first(VAL, 20)):
        assert np.array_equal(image, again)
        assert objects == objects_again


def test_every_image_holds_one_to_five_digits_inside_it_and_hardly_overlapping():
    for image, objects in _first(TRAIN, 100):
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        assert 1 <= len(objects) <= 5
        for o in objects:
            x, y, width, height = o["bbox"]
            assert x >= 0 and y >= 0 and x + width <= 128 and y + height <= 128
            assert o["area"] == width * height
            assert 1 <= o["category_id"] <= 10
        for a, b in itertools.combinations(objects, 2):
            assert prepare_digits.iou(a["bbox"], b["bbox"]) <= 0.02


def test_iou_of_two_boxes():
    # 2x2 shared of 4x4 and 4x4: 4 / (16 + 16 - 4)
    assert prepare_digits.iou((0, 0, 4, 4), (2, 2, 4, 4)) == pytest.approx(1 / 7)
    assert prepare_digits.iou((0, 0, 4, 4), (4, 0, 4, 4)) == 0


def test_crop_to_ink_keeps_cells_from_a_quarter_on():
    alpha = np.array([[0.0, 0.2, 0.0], [0.0, 0.25, 0.9], [0.1, 0.0, 0.2]])
    assert prepare_digits.crop_to_ink(alpha).tolist() == [[0.25, 0.9]]


def test_boxes_are_tight():
    scans, _, _ = prepare_digits.load_sources()
    rng = np.random.default_rng(0)
    for scan in scans[:100]:
        alpha = prepare_digits.render_digit(scan, rng)
        for border in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert border.max() >= 0.25
        assert alpha.min() >= 0 and alpha.max() <= 1
        assert max(alpha.shape) <= 64


def test_digits_stand_out_from_the_ground():
    rng = np.random.default_rng(0)
    ground = np.full((4, 4, 3), 100.0)
    for _ in range(50):
        assert prepare_digits.pick_ink(ground, rng) @ [0.299, 0.587, 0.114] > 170
    with pytest.raises(ValueError, match="too bright"):
        prepare_digits.pick_ink(np.full((4, 4, 3), 190.0), rng)


def test_no_place_in_a_full_image():
    rng = np.random.default_rng(0)
    assert prepare_digits.find_place((64, 64), [(0, 0, 128, 128)], rng) is None
    assert prepare_digits.find_place((128, 128), [], rng) == (0, 0, 128, 128)


def test_splits_share_no_scan_and_no_photo_column(monkeypatch):
    assert not set(range(1797)[TRAIN.scans]) & set(range(1797)[VAL.scans])
    assert not set(range(640)[TRAIN.columns]) & set(range(640)[VAL.columns])

    # Marked material: what a split draws from must be its own.
    scans, digits, _ = prepare_digits.load_sources()
    marks = np.zeros((427, 640, 3), dtype=np.uint8)
    marks[:, 400:, 0] = 200
    monkeypatch.setattr(prepare_digits, "load_sources", lambda: (scans, digits, [marks, marks]))
    drawn = []
    render = prepare_digits.render_digit
    monkeypatch.setattr(
        prepare_digits, "render_digit", lambda scan, rng: drawn.append(scan) or render(scan, rng)
    )
    known = {scan.tobytes() for scan in scans[1400:]}
    for split, red in ((TRAIN, 0), (VAL, 100)):
        drawn.clear()
        for image, objects in _first(split, 30):
            background = np.ones((128, 128), dtype=bool)
            for o in objects:
                x, y, width, height = o["bbox"]
                background[y : y + height, x : x + width] = False
            assert (image[..., 0][background] == red).all()
        assert {scan.tobytes() in known for scan in drawn} == {split is VAL}


def test_all_scans_are_used_before_one_comes_again():
    stream = prepare_digits.endless(np.arange(5, 9), np.random.default_rng(0))
    assert sorted(itertools.islice(stream, 4)) == [5, 6, 7, 8]
    assert sorted(itertools.islice(stream, 4)) == [5, 6, 7, 8]


def test_polygons_fill_exactly_the_pixels_of_a_mask():
    mask = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], dtype=bool)
    polygons = prepare_digits.to_polygons(mask, x=3, y=2)
    # the upper four pixels share a rectangle
    assert [4, 2, 6, 2, 6, 4, 4, 4] in polygons and len(polygons) == 3
    expected = np.zeros((6, 8), dtype=bool)
    expected[2:5, 3:7] = mask
    assert np.array_equal(polygons_to_bitmask(polygons, 6, 8), expected)


def test_polygons_fill_every_scan():
    scans, _, _ = prepare_digits.load_sources()
    rng = np.random.default_rng(1)
    for scan in scans[:40]:
        ink = prepare_digits.render_digit(scan, rng) >= 0.25
        polygons = prepare_digits.to_polygons(ink, 0, 0)
        assert np.array_equal(polygons_to_bitmask(polygons, *ink.shape), ink)


def test_lvis_files_annotate_a_few_images_for_the_rare_digits(monkeypatch):
    monkeypatch.setattr(prepare_digits, "ANNOTATED_IMAGES", {1: 2})

    def content(split, shown):
        """Images that show the given digits."""
        annotations = [
            {"id": number, "image_id": image_id, "category_id": digit + 1}
            for number, (image_id, digit) in enumerate(
                (image_id, digit) for image_id, digits in shown.items() for digit in digits
            )
        ]
        images = [{"id": image_id, "file_name": f"{image_id}.png"} for image_id in shown]
        categories = [{"id": digit + 1, "name": str(digit)} for digit in range(3)]
        return {
            "info": {"split": split},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }

    train, val = prepare_digits.to_lvis(
        content("train", {1: [1, 1], 2: [0, 1], 3: [1], 4: [0, 2]}), content("val", {9: [1]})
    )
    found = [(a["image_id"], a["category_id"]) for a in train["annotations"]]
    assert found == [(1, 2), (1, 2), (2, 1), (2, 2), (4, 1), (4, 3)]  # not the digit 1 of image 3
    assert [c["image_count"] for c in train["categories"]] == [2, 2, 1]
    assert [c["instance_count"] for c in train["categories"]] == [2, 3, 1]
    # image 3 shows a 1 that is not annotated: it is known to lack the others only
    assert [i["neg_category_ids"] for i in train["images"]] == [[1, 3], [3], [1, 3], [2]]
    assert train["images"][1]["coco_url"] == "digits/train/2.png"
    assert len(val["annotations"]) == 1 and val["categories"] == train["categories"]


def test_frequencies_follow_the_bounds_of_lvis():
    assert [prepare_digits._frequency(n) for n in (1, 10, 11, 100, 101)] == list("rrccf")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The dataset with 3 + 2 images, written once, and its folder."""
    splits = (TRAIN._replace(num_images=3), VAL._replace(num_images=2))
    monkeypatch.setattr(prepare_digits, "SPLITS", splits)
    assert prepare_digits.prepare(tmp_path / "digits")
    return tmp_path / "digits"


def test_what_is_written_is_what_was_generated(small):
    content = json.loads((small / "annotations" / "instances_val.json").read_text())
    assert [c["name"] for c in content["categories"]] == [str(digit) for digit in range(10)]
    assert [c["id"] for c in content["categories"]] == list(range(1, 11))
    for image_id, (image, objects) in enumerate(_first(VAL, 2), start=1):
        assert np.array_equal(np.asarray(Image.open(small / "val" / f"{image_id:06d}.png")), image)
        written = [a for a in content["annotations"] if a["image_id"] == image_id]
        assert [a["bbox"] for a in written] == [o["bbox"] for o in objects]
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_a_complete_dataset_is_left_alone(small):
    assert not prepare_digits.prepare(small)


def test_an_incomplete_dataset_is_refused_and_replaced_on_request(small):
    (small / "val" / "000002.png").unlink()
    with pytest.raises(FileExistsError, match="--force"):
        prepare_digits.prepare(small)
    assert prepare_digits.prepare(small, force=True)
    assert (small / "val" / "000002.png").is_file()


def test_an_interrupted_run_leaves_nothing(small, monkeypatch):
    def interrupt(split, root):
        root.joinpath("half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_digits, "write_split", interrupt)
    other = small.parent / "other"
    with pytest.raises(KeyboardInterrupt):
        prepare_digits.prepare(other)
    assert [path.name for path in small.parent.iterdir()] == ["digits"]


@pytest.fixture
def registered(tmp_path):
    """Registers the digits under another name; the names leave the catalogs afterwards."""
    names = [f"temporary_digits_{split}" for split in ("train", "val", "lvis_train", "lvis_val")]
    register_digits(str(tmp_path), "temporary_digits")
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_registered_digits_load(small, registered):
    dicts = DatasetCatalog.get(registered[1])
    generated = _first(VAL, 2)
    classes = [[a["category_id"] for a in record["annotations"]] for record in dicts]
    assert classes == [[o["category_id"] - 1 for o in objects] for _, objects in generated]
    assert MetadataCatalog.get(registered[1]).thing_classes[7] == "7"


def test_registered_lvis_digits_load(small, registered):
    dicts = load_dataset(registered[3])
    assert [record["file_name"] for record in dicts] == [
        str(small / "val" / f"00000{number}.png") for number in (1, 2)
    ]
    generated = _first(VAL, 2)
    for record, (_, objects) in zip(dicts, generated):
        classes = [a["category_id"] for a in record["annotations"]]
        assert classes == [o["category_id"] - 1 for o in objects]
        shown = {c + 1 for c in classes}
        assert set(record["neg_category_ids"]) == set(range(1, 11)) - shown
    counts = MetadataCatalog.get(registered[3]).class_image_count
    train = json.loads((small / "annotations" / "instances_train.json").read_text())
    zeros = {a["image_id"] for a in train["annotations"] if a["category_id"] == 1}
    assert counts[0] == {"id": 1, "image_count": len(zeros)}


def test_missing_digits_say_how_to_make_them(registered):
    with pytest.raises(FileNotFoundError, match="instances_train.json.*prepare_digits.py"):
        DatasetCatalog.get(registered[0])


def test_digits_are_registered_by_importing_the_data_package():
    names = {"digits_train", "digits_val", "digits_lvis_train", "digits_lvis_val"}
    assert names <= set(DatasetCatalog.list())
