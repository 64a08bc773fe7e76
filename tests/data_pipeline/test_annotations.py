"""Annotation files as tools write them: what is repaired, and what is refused with which words."""

import json
import logging
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest

from co_detr.data.annotations import read_annotations, read_categories

TRIANGLE = [10.0, 10.0, 30.0, 10.0, 10.0, 20.0]  # half of the box 10, 10, 20, 10


def each(**values):
    """Give every annotation some values; functions are called with the annotation."""

    def change(content):
        for annotation in content["annotations"]:
            for key, value in values.items():
                annotation[key] = value(annotation) if callable(value) else value

    return change


def without(section, *keys):
    def change(content):
        for entry in content[section]:
            for key in keys:
                entry.pop(key, None)

    return change


@pytest.fixture
def read(tiny, tmp_path):
    """Change the content of the tiny dataset, write it and read it again."""

    def change_and_read(change=lambda content: None, kind="coco"):
        change(tiny.content)
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(tiny.content))
        return read_annotations(str(file), kind)

    return change_and_read


def test_a_file_without_faults_stays_as_it_is(tiny, read):
    before = json.loads(json.dumps(tiny.content))
    annotations = read()
    assert annotations.notes == ()
    assert annotations.annotations == before["annotations"]
    assert (annotations.class_names, annotations.class_ids) == (["boat", "lamp"], [5, 9])


# ---------------------------------------------------------------------------- what is repaired


@pytest.mark.parametrize(
    "change, count, key, expected",
    [
        (without("annotations", "area"), 4, "area", [200, 300, 2400, 64]),
        (each(area=None), 4, "area", [200, 300, 2400, 64]),
        (each(area=0), 4, "area", [200, 300, 2400, 64]),
        (each(area=float("nan")), 4, "area", [200, 300, 2400, 64]),
        (each(area=lambda a: str(a["area"] + 0.5)), 4, "area", [200.5, 300.5, 2400.5, 64.5]),
        (without("annotations", "iscrowd"), 4, "iscrowd", [0, 0, 0, 0]),
        (each(iscrowd=None), 4, "iscrowd", [0, 0, 0, 0]),
        (each(iscrowd=lambda a: a["id"] == 2), 4, "iscrowd", [0, 1, 0, 0]),
        (each(iscrowd=lambda a: "1" if a["id"] == 2 else "0"), 4, "iscrowd", [0, 1, 0, 0]),
        (each(iscrowd=lambda a: 1.0 if a["id"] == 2 else 0), 1, "iscrowd", [0, 1, 0, 0]),
        (without("annotations", "id"), 4, "id", [1, 2, 3, 4]),
        (each(id=lambda a: a["id"] - 1), 1, "id", [1, 2, 3, 4]),
        (each(id=lambda a: 10 + a["id"] // 2), 1, "id", [1, 2, 3, 4]),
        (each(id=lambda a: f"a{a['id']}"), 4, "id", [1, 2, 3, 4]),
        (each(id=lambda a: None if a["id"] > 2 else a["id"]), 2, "id", [1, 2, 3, 4]),
        (each(id=lambda a: str(a["id"]) if a["id"] > 2 else a["id"]), 2, "id", [1, 2, 3, 4]),
        (each(id=lambda a: a["id"] + 2**60), 4, "id", [1, 2, 3, 4]),
        (each(id=lambda a: 7 * a["id"]), 0, "id", [7, 14, 21, 28]),
    ],
)
def test_what_annotations_leave_open_is_filled_in_and_counted(read, change, count, key, expected):
    annotations = read(change)
    assert [annotation[key] for annotation in annotations.annotations] == expected
    assert [note.split()[0] for note in annotations.notes] == ([str(count)] if count else [])


def test_the_area_of_an_object_with_a_mask_is_that_of_the_mask(read):
    def change(content):
        each(area=None)(content)
        content["annotations"][0]["segmentation"] = [TRIANGLE]
        mask = np.zeros((40, 60), np.uint8)
        mask[5:35, 30:33] = 1  # three of the ten columns of the second box
        rle = mask_util.encode(np.asfortranarray(mask))
        content["annotations"][1]["segmentation"] = {
            "size": [40, 60],
            "counts": rle["counts"].decode(),
        }

    areas = [annotation["area"] for annotation in read(change).annotations]
    assert areas == [pytest.approx(100, abs=10), 90, 2400, 64]


@pytest.mark.parametrize(
    "own, referred, ids, of_annotations",
    [
        (str, int, [1, 2, 3, 4], [1, 1, 2, 3]),
        (int, str, [1, 2, 3, 4], [1, 1, 2, 3]),
        (float, int, [1, 2, 3, 4], [1, 1, 2, 3]),
        (str, str, ["1", "2", "3", "4"], ["1", "1", "2", "3"]),
        ("img-{}".format, "img-{}".format, *[[f"img-{i}" for i in x] for x in ("1234", "1123")]),
        (lambda i: f"b{i}" if i > 3 else i, int, ["1", "2", "3", "b4"], ["1", "1", "2", "3"]),
        ("00{}".format, int, [1, 2, 3, 4], [1, 1, 2, 3]),
    ],
)
def test_image_ids_of_mixed_types_get_one_type(read, own, referred, ids, of_annotations):
    def change(content):
        for image in content["images"]:
            image["id"] = own(image["id"])
        each(image_id=lambda a: referred(a["image_id"]))(content)

    annotations = read(change)
    assert [image["id"] for image in annotations.images] == ids
    assert [annotation["image_id"] for annotation in annotations.annotations] == of_annotations


def test_category_ids_in_text_are_numbers_in_the_order_of_numbers(read):
    def change(content):
        content["categories"] = [{"id": "10", "name": "lamp"}, {"id": "9", "name": "boat"}]
        each(category_id=lambda a: {5: "9", 9: "10"}[a["category_id"]])(content)

    annotations = read(change)
    assert (annotations.class_ids, annotations.class_names) == ([9, 10], ["boat", "lamp"])
    assert [annotation["category_id"] for annotation in annotations.annotations] == [9, 10, 10, 9]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_files_are_read_in_the_encodings_of_json(tiny, tmp_path, encoding):
    tiny.content["categories"][1]["name"] = "Kähne"
    file = tmp_path / "encoded.json"
    file.write_text(json.dumps(tiny.content, ensure_ascii=False), encoding=encoding)
    annotations = read_annotations(str(file))
    assert annotations.class_names == ["Kähne", "lamp"]
    # so that a repaired copy is what everybody reads
    assert len(annotations.notes) == (encoding != "utf-8")


def test_numbers_in_text_are_read_in_boxes_and_sizes(read):
    def change(content):
        content["annotations"][0]["bbox"] = ["10", 10, "20.5", "1e1"]
        content["images"][0].update(height="40", width=60.0)

    annotations = read(change)
    assert annotations.annotations[0]["bbox"] == [10, 10, 20.5, 10]
    height, width = annotations.images[0]["height"], annotations.images[0]["width"]
    assert (height, type(height), width, type(width)) == (40, int, 60, int)
    assert [note.split()[0] for note in annotations.notes] == ["2", "1"]


def test_categories_of_one_name_are_told_apart(read):
    annotations = read(lambda content: content["categories"][0].update(name="boat"))
    assert annotations.class_names == ["boat (id 5)", "boat (id 9)"]
    assert "2 categories share their names" in annotations.notes[0]


def test_names_that_are_numbers_are_text(read):
    assert read(lambda content: content["categories"][0].update(name=7)).class_names == [
        "boat",
        "7",
    ]


@pytest.mark.parametrize("empty", [None, [], {}, [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]]])
def test_a_degenerate_polygon_costs_the_mask_not_the_box(read, empty):
    def change(content):
        each(segmentation=[TRIANGLE])(content)
        content["annotations"][0]["segmentation"] = empty

    annotations = read(change)
    with_masks = ["segmentation" in annotation for annotation in annotations.annotations]
    assert with_masks == [False, True, True, True]
    degenerate = sum("fewer than three points" in note for note in annotations.notes)
    assert degenerate == (1 if empty else 0)
    # where masks are evaluated, its box is one
    truth = annotations.truth()["annotations"]
    assert truth[0]["segmentation"] == [[10, 10, 30, 10, 30, 20, 10, 20]]
    assert truth[1]["segmentation"] == [TRIANGLE]


def test_degenerate_parts_of_a_mask_are_left_out(read):
    annotations = read(each(segmentation=[[1, 1, 2, 2], TRIANGLE]))
    assert all(a["segmentation"] == [TRIANGLE] for a in annotations.annotations)
    assert annotations.notes[0].startswith("4 annotations have polygons of fewer than three points")


@pytest.mark.parametrize("box", [[5, 5, 0, 9], [30, 20, -10, 5], [60, 0, 5, 5], [-9, 3, 9, 9]])
def test_boxes_without_area_are_left_out_in_training_and_evaluation(read, box):
    annotations = read(lambda content: content["annotations"][0].update(bbox=box))
    assert [annotation["id"] for annotation in annotations.annotations] == [2, 3, 4]
    assert [annotation["id"] for annotation in annotations.truth()["annotations"]] == [2, 3, 4]
    assert annotations.notes[0].startswith("left out 1 annotations whose box is empty")


def test_a_flag_of_other_formats_is_taken_out(read):
    annotations = read(each(ignore=1))
    assert not any("ignore" in annotation for annotation in annotations.annotations)
    assert annotations.notes[0].startswith("4 annotations have `ignore`")


def test_unknown_fields_are_kept_and_harmless(read):
    def change(content):
        content.update(info=None, licenses=[])
        each(attributes={"occluded": False})(content)
        for image in content["images"]:
            image.update(license=None, coco_url=None)

    assert read(change).notes == ()


# ---------------------------------------------------------------------------- what is refused


def at(section, index, **values):
    return lambda content: content[section][index].update(values)


def rle(height, width, counts=None):
    return {"size": [height, width], "counts": [height * width] if counts is None else counts}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(images=None), "`images` is null: it must be a list"),
        (lambda c: c.update(annotations=None), "`annotations` is null: it must be a list"),
        (lambda c: c.update(categories={}), "`categories` is of the type dict: it must be a list"),
        (lambda c: c.update(images=[]), "`images` is empty"),
        (lambda c: c.update(categories=[]), "`categories` is empty"),
        (lambda c: c["annotations"].insert(2, 17), "`annotations` has 17 for entry number 2"),
        (lambda c: c["images"].append(None), "`images` has None for entry number 4"),
        (
            without("categories", "name"),
            "category 5 has no name: give it one|category 9 has no name",
        ),
        (at("categories", 1, name=None), "category 5 has no name"),
        (at("categories", 1, name=" "), "category 5 has no name"),
        (at("categories", 1, id=None), "category .*'boat'.* has no `id`"),
        (at("images", 1, id=None), "image .*2.png.* has no `id`"),
        (at("images", 1, id=[2]), r"a image has the id \[2\]: an id must be a whole number"),
        (at("images", 1, id=True), "has the id True"),
        (at("images", 1, id="3"), "2 entries have the image id 3"),
        (at("images", 1, file_name=3), "image 2 has the file_name 3: it must be a text"),
        (at("annotations", 1, image_id="b"), r"annotation 2 belongs to image 'b'.*it has 1, 2, 3"),
        (at("annotations", 1, image_id=[1]), r"annotation 2 belongs to image \[1\]"),
        (without("annotations", "image_id"), "annotation 1 belongs to image None"),
        (without("annotations", "category_id"), "annotation 1 has category_id None"),
        (at("annotations", 1, iscrowd=2), "annotation 2 has iscrowd 2: it must be 1 for a region"),
        (at("annotations", 1, iscrowd="no"), "annotation 2 has iscrowd 'no'"),
        (at("annotations", 1, iscrowd=[0]), r"annotation 2 has iscrowd \[0\]"),
        (at("annotations", 1, segmentation=TRIANGLE), "annotation 2 .*one flat list: write a list"),
        (
            at("annotations", 1, segmentation=[[[1, 2], [3, 4], [5, 6]]]),
            "annotation 2.*no flat list",
        ),
        (
            at("annotations", 1, segmentation=[[1, 2, 3, 4, 5, None]]),
            "annotation 2.*finite numbers",
        ),
        (at("annotations", 1, segmentation=["x"]), "annotation 2.*polygon 'x' is no list"),
        (at("annotations", 1, segmentation="x"), "annotation 2.*neither a list of polygons nor"),
        (
            at("annotations", 1, segmentation=rle(60, 40)),
            r"annotation 2.*size \[60, 40\], but its image is 40 high and 60 wide",
        ),
        (at("annotations", 1, segmentation=rle(40, 60, [10, 5])), "annotation 2.*cover 15 pixels"),
        (at("annotations", 1, segmentation=rle(40, 60, [-1, 2401])), "no whole numbers from 0 on"),
        # sums of 2^64 + 2400, the second one of runs that go up and down by 2^33 each
        (
            at("annotations", 1, segmentation=rle(40, 60, [2**62, 2**62, 2**62, 2**62 + 2400])),
            "annotation 2.* one of 46116860184273903.. pixels of 40 x 60 = 2400",
        ),
        (
            at(
                "annotations",
                1,
                segmentation=rle(40, 60, "P[2" + "PPPPPP8" * 2**16 + "PPPPPPH" * 2**16),
            ),
            "annotation 2.* one of 281474976710656 pixels of 40 x 60 = 2400",
        ),
        (
            lambda c: (
                at("images", 0, height=2**16, width=2**16)(c),
                at("annotations", 0, segmentation=rle(2**16, 2**16))(c),
            ),
            "annotation 1.* 65536 x 65536 = 4294967296 pixels, more than .*write polygons",
        ),
        (at("annotations", 1, segmentation=rle(40, 60, ["a"])), "no whole numbers from 0 on"),
        (at("annotations", 1, segmentation={"size": [40, 60]}), "annotation 2.*no `counts`"),
        (at("annotations", 1, segmentation=rle(40, 60, "hello world")), "characters of no run"),
        (at("annotations", 1, segmentation=rle(40, 60, "010")), "cover 1 pixels of 40 x 60 = 2400"),
        (at("annotations", 1, segmentation=rle(40, 60, "01P")), "ends amid a number"),
    ],
)
def test_what_has_no_one_meaning_is_refused_with_entry_and_reason(read, change, message):
    with pytest.raises(ValueError, match=f"changed.json: .*({message})"):
        read(change)


@pytest.mark.parametrize("runs", [[0, 2400], [2400], [1, 1, 2398], [700, 30, 5, 1000, 665], []])
def test_run_lengths_are_checked_by_what_they_cover(read, runs):
    """Compressed by pycocotools; without the last run they cover less than the image."""
    if not runs:  # every other pixel: short differences to the one before last
        runs = [1] * 2400
    packed = mask_util.frPyObjects({"size": [40, 60], "counts": runs}, 40, 60)["counts"].decode()
    assert read(at("annotations", 0, segmentation=rle(40, 60, packed))).annotations
    packed = mask_util.frPyObjects({"size": [40, 60], "counts": runs[:-1]}, 40, 60)["counts"]
    with pytest.raises(ValueError, match=f"cover {sum(runs[:-1])} pixels"):
        read(at("annotations", 0, segmentation=rle(40, 60, packed.decode())))


# ---------------------------------------------------------------------------- LVIS format


@pytest.fixture
def lvis(tiny):
    """Turns the content of the tiny dataset into LVIS format, without what is computed."""
    for category, new_id in zip(tiny.content["categories"], (2, 1)):
        category["id"] = new_id
    for annotation in tiny.content["annotations"]:
        annotation["category_id"] = {5: 1, 9: 2}[annotation["category_id"]]
        del annotation["iscrowd"]
    return tiny.content


def test_lvis_files_without_lists_and_frequencies_get_them(lvis, read):
    annotations = read(kind="lvis")
    for image in annotations.images:
        assert image["neg_category_ids"] == image["not_exhaustive_category_ids"] == []
    counted = [(c["name"], c["image_count"], c["frequency"]) for c in annotations.categories]
    assert counted == [("boat", 2, "r"), ("lamp", 2, "r")]
    assert [note.split()[0] for note in annotations.notes] == ["4", "4", "2", "2"]


@pytest.mark.parametrize("count, frequency", [(10, "r"), (11, "c"), (100, "c"), (101, "f")])
def test_frequencies_follow_the_number_of_images(lvis, read, count, frequency):
    lvis["categories"][0]["image_count"] = count
    assert read(kind="lvis").categories[1]["frequency"] == frequency


def test_crowd_regions_of_lvis_files_do_not_count_in_evaluation(lvis, read):
    lvis["annotations"][1]["iscrowd"] = 1
    annotations = read(kind="lvis")
    assert [a.get("ignore", 0) for a in annotations.truth()["annotations"]] == [0, 1, 0, 0]
    assert any("crowd regions" in note for note in annotations.notes)


def test_lvis_files_without_annotations_are_those_of_a_test_split(lvis, read):
    del lvis["annotations"]
    assert read(kind="lvis").truth()["annotations"] == []


@pytest.mark.parametrize("ids", [5, [[1]], [None]])
def test_a_list_of_categories_must_be_one(lvis, read, ids):
    lvis["images"][2]["neg_category_ids"] = ids
    match = f"image 3 has neg_category_ids {re.escape(str(ids))}: it must be a list"
    with pytest.raises(ValueError, match=match):
        read(kind="lvis")


def test_pictures_of_lvis_have_a_name_or_an_address(lvis, read):
    first, second = lvis["images"][:2]
    address = "http://images.cocodataset.org/train2017/000000000001.jpg"
    first.update(file_name=None, coco_url=address)
    second.update(coco_url=0)
    images = read(kind="lvis").images
    assert "file_name" not in images[0] and images[0]["coco_url"] == address
    assert "coco_url" not in images[1]


@pytest.mark.parametrize("side", [10**12, 10**400])
def test_sides_beyond_any_picture_are_refused(tiny, read, side):
    tiny.content["images"][0]["width"] = side
    with pytest.raises(ValueError, match="image 1 has height and width .* in pixels"):
        read()


def test_whole_numbers_beyond_floats_are_no_boxes_and_no_areas(tiny, read):
    tiny.content["annotations"][0]["area"] = 10**400
    x, y, w, h = tiny.content["annotations"][0]["bbox"]
    assert read().annotations[0]["area"] == w * h
    tiny.content["annotations"][0]["bbox"] = [x, y, 10**400, h]
    with pytest.raises(ValueError, match="annotation 1 has the bbox .* four finite numbers"):
        read()


def test_categories_can_be_read_where_annotations_are_faulty(tiny, tmp_path):
    tiny.content["categories"] = [{"id": "10", "name": "lamp"}, {"id": "9", "name": "boat"}]
    each(bbox=None)(tiny.content)
    file = tmp_path / "faulty.json"
    file.write_text(json.dumps(tiny.content), encoding="utf-8-sig")
    categories = [(c["id"], c["name"]) for c in read_categories(str(file))]
    assert categories == [(9, "boat"), (10, "lamp")]


# ---------------------------------------------------------------------------- the log


def test_each_kind_of_repair_is_said_once_per_file(tiny, caplog):
    from co_detr.data import load_dataset

    each(area=None, iscrowd=None)(tiny.content)
    name = tiny.register()
    for _ in range(2):
        load_dataset(name)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "instances_0.json: 4 annotations have no `iscrowd`" in lines[0]
    assert "instances_0.json: 4 annotations have no `area`" in lines[1]
