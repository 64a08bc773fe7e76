"""Data sets as tools export them: the same two pictures and three boxes come out of each."""

import json
from pathlib import Path

import numpy as np
import pytest
import supervision
from pets import CLASSES, PICTURES, coco, save_picture, save_pictures, write_json
from PIL import Image

from co_detr.cli.main import main
from co_detr.data.formats import read_data
from co_detr.data.formats.pictures import Named, find_picture, find_pictures
from co_detr.data.formats.writing import divide, same_classes, write_splits


def read(path):
    return read_data(path)[1]


def boxes(*splits):
    """{(file name, class): box} of pictures that are where the splits say."""
    found = {}
    for split in splits:
        names = {c["id"]: c["name"] for c in split.content["categories"]}
        files = {i["id"]: split.image_root / i["file_name"] for i in split.content["images"]}
        assert all(path.is_file() for path in files.values())
        for a in split.content["annotations"]:
            found[files[a["image_id"]].name, names[a["category_id"]]] = a["bbox"]
    return found


EXPECTED = {(n, label): box for n, (_, objects) in PICTURES.items() for label, *box in objects}


def assert_all_there(*splits):
    found = boxes(*splits)
    assert set(found) == set(EXPECTED)
    for key, box in EXPECTED.items():
        assert found[key] == pytest.approx(box, abs=0.002), key
    assert all(split.class_names == CLASSES for split in splits)


# ---------------------------------------------------------------------------------- COCO


def test_coco_as_roboflow_exports_it(coco_folder):
    kind, splits = read_data(coco_folder)
    assert kind == "COCO" and [s.name for s in splits] == ["train", "val"]
    assert_all_there(*splits)
    assert all(split.is_coco for split in splits)


@pytest.mark.parametrize(
    "file, pictures, prefix",
    [
        ("annotations/instances_train2017.json", "train2017", ""),
        ("annotations/instances_default.json", "images", ""),
        ("result.json", "images", "images/"),
        ("labels.json", ".", ""),
        ("annotations/instances_train.json", "images/train", ""),
    ],
)
def test_coco_in_other_folders(tmp_path, file, pictures, prefix):
    write_json(tmp_path / file, coco(prefix=prefix))
    save_pictures(tmp_path / pictures)
    (split,) = read(tmp_path)
    assert split.is_coco and split.name == ("train" if "train" in file else "all")
    assert_all_there(split)


def test_coco_keypoints_beside_objects_are_not_another_split(tmp_path):
    for kind in ("instances", "person_keypoints"):
        write_json(tmp_path / f"annotations/{kind}_train2017.json", coco())
    write_json(tmp_path / "annotations/captions_train2017.json", {"images": [], "annotations": []})
    save_pictures(tmp_path / "train2017")
    assert_all_there(*read(tmp_path))


def test_coco_file_of_another_machine_has_its_pictures_found(tmp_path):
    content = coco(prefix="C:\\Users\\me\\pets\\")
    write_json(tmp_path / "export.json", content)
    save_pictures(tmp_path / "some" / "where")
    (split,) = read(tmp_path)
    assert not split.is_coco and "2 pictures were found in other folders" in split.notes[0]
    assert_all_there(split)


def test_coco_pictures_are_all_looked_for(tmp_path):
    """Also where the first twenty are in one folder."""
    images = []
    for number in range(25):
        save_picture(tmp_path / ("more" if number == 24 else "") / f"{number}.png", (8, 8))
        images.append({"id": number, "file_name": f"{number}.png", "width": 8, "height": 8})
    write_json(tmp_path / "labels.json", coco() | {"images": images, "annotations": []})
    (split,) = read(tmp_path)
    assert split.content["images"][24]["file_name"] == "more/24.png"
    assert split.notes[-1].startswith("1 pictures were found in other folders")


def test_pictures_added_later_are_found(tmp_path):
    write_json(tmp_path / "labels.json", coco(["a.png"], prefix="elsewhere/"))
    for expected in ("elsewhere/a.png", "here/a.png"):
        (split,) = read(tmp_path)
        assert split.content["images"][0]["file_name"] == expected
        save_picture(tmp_path / "here/a.png", PICTURES["a.png"][0])


def test_umbrella_category_of_roboflow_is_no_class(tmp_path):
    content = coco()
    for category in content["categories"]:
        category["supercategory"] = "pets"
    content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
    write_json(tmp_path / "train/_annotations.coco.json", content)
    save_pictures(tmp_path / "train")
    assert_all_there(*read(tmp_path))


# ---------------------------------------------------------------------------------- YOLO


def yolo_line(name, label, x, y, w, h):
    width, height = PICTURES[name][0]
    numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    return " ".join(map(str, [CLASSES.index(label), *numbers]))


def write_yolo(folder, images="images/train", labels="labels/train"):
    save_pictures(folder / images)
    (folder / labels).mkdir(parents=True, exist_ok=True)
    for name, (_, objects) in PICTURES.items():
        lines = [yolo_line(name, *thing) for thing in objects]
        (folder / labels / name).with_suffix(".txt").write_text("\n".join(lines) + "\n\n")


@pytest.mark.parametrize(
    "yaml, images, labels",
    [
        ("path: .\ntrain: images/train\nnames: [cat, dog]", "images/train", "labels/train"),
        ("train: ../train/images\nnames: {0: cat, 1: dog}", "train/images", "train/labels"),
        ("path: /elsewhere\ntrain: [pets]\nnames: [cat, dog]", "pets", "pets"),
        ("train: list.txt\nnames: [cat, dog]", "images", "labels"),  # of paths as below
    ],
)
def test_yolo_with_data_yaml(tmp_path, yaml, images, labels):
    write_yolo(tmp_path, images, labels)
    (tmp_path / "data.yaml").write_text(yaml)
    (tmp_path / "list.txt").write_text("./images/a.png\ndata/images/b.png\n")
    kind, splits = read_data(tmp_path)
    assert kind == "YOLO" and [split.name for split in splits] == ["train"]
    assert_all_there(*splits)


@pytest.mark.parametrize(
    "names, images, labels, split",
    [
        ("classes.txt", "images", "labels", "all"),  # Label Studio
        ("obj.names", "obj_train_data", "obj_train_data", "train"),  # CVAT's "YOLO 1.1"
    ],
)
def test_yolo_with_a_list_of_names(tmp_path, names, images, labels, split):
    write_yolo(tmp_path, images, labels)
    (tmp_path / names).write_text("cat\ndog\n")
    splits = read(tmp_path)
    assert [s.name for s in splits] == [split]
    assert_all_there(*splits)


def test_yolo_is_read_as_supervision_reads_it(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
    theirs = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images/train"), str(tmp_path / "labels/train"), str(tmp_path / "data.yaml")
    )
    assert theirs.classes == CLASSES
    ours = boxes(*read(tmp_path))
    for path, _, detections in theirs:
        for (x0, y0, x1, y1), label in zip(detections.xyxy, detections.class_id):
            expected = [x0, y0, x1 - x0, y1 - y0]
            assert ours[Path(path).name, CLASSES[label]] == pytest.approx(expected, abs=0.002)


def objects_of(tmp_path, lines, extra=""):
    """The annotations of a picture of 100 x 50 with these labels."""
    save_picture(tmp_path / "images/a.png", (100, 50))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(lines)
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: [cat, dog]\n{extra}")
    (split,) = read(tmp_path)
    return split.content["annotations"]


def test_yolo_polygons_stay_polygons(tmp_path):
    (found,) = objects_of(tmp_path, "1 0.1 0.2 0.5 0.2 0.3 0.8\n")
    assert found["bbox"] == [10, 10, 40, 30]
    assert found["segmentation"] == [[10, 10, 50, 10, 30, 40]]


def test_yolo_scores_and_keypoints_are_left_out(tmp_path):
    lines = "0 0.5 0.5 0.2 0.4 0.9\n1 0.5 0.5 0.2 0.4 0.1 0.1 0.2 0.2\n"
    found = objects_of(tmp_path, lines, "kpt_shape: [2, 2]")
    assert [a["bbox"] for a in found] == [[40, 15, 20, 20]] * 2


@pytest.mark.parametrize(
    "line, message",
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt, line 2.* is of class 2, but there are 2"),
        ("cat 0.5 0.5 0.1 0.1", "no label: it must be numbers"),
        ("0 0.5 0.5 0.1", "3 numbers behind the class"),
        ("0.5 0.5 0.5 0.1 0.1", "of class 0.5"),
    ],
)
def test_yolo_lines_that_mean_nothing_are_refused(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        objects_of(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")


def test_yolo_without_its_pictures_says_where_they_should_be(tmp_path):
    (tmp_path / "data.yaml").write_text("path: data\ntrain: images/train\nnames: [cat]")
    with pytest.raises(FileNotFoundError, match="data/images/train.* correct `path`"):
        read_data(tmp_path)


# ---------------------------------------------------------------------------------- XML


def voc(name, shift, suffix=""):
    """An XML file; `shift` 1 for the devkit's pixels from 1."""
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x + shift}{suffix}</xmin>"
        f"<ymin>{y + shift}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for label, x, y, w, h in PICTURES[name][1]
    )
    return f"<annotation><filename>{name}</filename>{objects}</annotation>"


@pytest.mark.parametrize("images, xml", [("JPEGImages", "Annotations"), ("train", "train")])
def test_voc_counts_pixels_from_one(tmp_path, images, xml):
    save_pictures(tmp_path / images)
    (tmp_path / xml).mkdir(exist_ok=True)
    for name in PICTURES:
        (tmp_path / xml / name).with_suffix(".xml").write_text(voc(name, shift=1))
    kind, (split,) = read_data(tmp_path)
    assert kind == "Pascal VOC" and split.name == ("train" if xml == "train" else "all")
    assert_all_there(split)

    theirs = supervision.DetectionDataset.from_pascal_voc(
        str(tmp_path / images), str(tmp_path / xml)
    )
    for path, _, detections in theirs:
        for (x0, y0, x1, y1), label in zip(detections.xyxy, detections.class_id):
            box = [x0, y0, x1 - x0, y1 - y0]
            assert EXPECTED[Path(path).name, theirs.classes[label]] == pytest.approx(box)


def test_voc_with_an_edge_between_pixels_is_read_as_it_is(tmp_path):
    save_pictures(tmp_path)
    for name in PICTURES:
        (tmp_path / name).with_suffix(".xml").write_text(voc(name, shift=0, suffix=".25"))
    (split,) = read(tmp_path)
    assert boxes(split)["a.png", "cat"] == [10.25, 5, 29.75, 20]
    assert "from 0" in split.notes[0]


def test_voc_lists_of_splits(tmp_path):
    save_pictures(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for name, split in (("a", "train"), ("b", "val")):
        (tmp_path / f"Annotations/{name}.xml").write_text(voc(f"{name}.png", shift=1))
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text(f"{name}\n")
    train, val = read(tmp_path)
    assert {name for name, _ in boxes(train)} == {"a.png"}
    assert {name for name, _ in boxes(val)} == {"b.png"}
    assert_all_there(train, val)


def test_cvat_for_images(tmp_path):
    images = "".join(
        f'<image name="{name}" width="{size[0]}" height="{size[1]}">'
        + "".join(
            f'<box label="{n}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}" occluded="0"/>'
            for n, x, y, w, h in objects
        )
        + '<points label="cat" points="1,1;2,2"/></image>'
        for name, (size, objects) in PICTURES.items()
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    (tmp_path / "annotations.xml").write_text(
        f"<annotations><meta><labels>{labels}</labels></meta>{images}</annotations>"
    )
    save_pictures(tmp_path / "images")
    kind, (split,) = read_data(tmp_path)
    assert kind == "CVAT for images" and split.notes == ["left out 2 shapes of the kind 'points'"]
    assert_all_there(split)


@pytest.mark.parametrize(
    "shape, box",
    [
        ('<box label="cat" xtl="10" ytl="10" xbr="50" ybr="30" rotation="90"/>', [20, 0, 20, 40]),
        ('<polygon label="cat" points="10,10;50,10;30,40"/>', [10, 10, 40, 30]),
        ('<ellipse label="cat" cx="30" cy="20" rx="10" ry="5"/>', [20, 15, 20, 10]),
        ('<mask label="cat" left="3" top="4" width="5" height="6" rle="1"/>', [3, 4, 5, 6]),
    ],
)
def test_cvat_shapes(tmp_path, shape, box):
    save_picture(tmp_path / "a.png", (100, 50))
    (tmp_path / "annotations.xml").write_text(
        f'<annotations><image name="a.png">{shape}</image></annotations>'
    )
    (split,) = read(tmp_path)
    assert boxes(split)["a.png", "cat"] == pytest.approx(box)


@pytest.mark.parametrize(
    "text, message",
    [("<annotation><object>", "no XML file"), ("<annotation><object/></annotation>", "number 1")],
)
def test_broken_xml_is_refused(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=f"a.xml.*{message}"):
        read_data(tmp_path)


# ---------------------------------------------------------------------------------- Label Studio


def label_studio(name, minimal):
    (width, height), objects = PICTURES[name]
    values = [
        {"x": 100 * x / width, "y": 100 * y / height, "rotation": 0}
        | {"width": 100 * w / width, "height": 100 * h / height, "rectanglelabels": [label]}
        for label, x, y, w, h in objects
    ]
    url = f"/data/upload/1/0123abcd-{name}"
    if minimal:
        return {"id": 1, "image": url, "label": values}
    results = [{"type": "rectanglelabels", "value": value} for value in values]
    cancelled = {"was_cancelled": True, "result": []}
    return {"data": {"image": url}, "annotations": [cancelled, {"result": results}]}


@pytest.mark.parametrize("minimal", [False, True])
def test_label_studio(tmp_path, minimal):
    write_json(tmp_path / "project-1.json", [label_studio(name, minimal) for name in PICTURES])
    save_pictures(tmp_path / "uploaded")
    kind, (split,) = read_data(tmp_path)
    assert kind == "Label Studio JSON"
    assert_all_there(split)


def test_label_studio_turns_about_the_upper_left_corner(tmp_path):
    value = {"x": 50, "y": 20, "width": 20, "height": 20, "rotation": 90, "rectanglelabels": ["c"]}
    write_json(
        tmp_path / "tasks.json",
        [{"data": {"image": "a.png"}, "annotations": [{"result": [{"value": value}]}]}],
    )
    save_picture(tmp_path / "a.png", (100, 50))
    (split,) = read(tmp_path)
    # 20 x 10 pixels at (50, 10), turned clockwise: to the left of the corner, and 20 high
    assert boxes(split)["a.png", "c"] == pytest.approx([40, 10, 10, 20])


# ---------------------------------------------------------------------------------- all


def test_pictures_of_one_name_in_two_folders_are_told_apart_or_missing(tmp_path):
    for folder in ("one", "two"):
        save_picture(tmp_path / folder / "a.png", (8, 8))
    assert find_picture("x\\two\\a.png", tmp_path, top=tmp_path) == tmp_path / "two/a.png"
    assert not find_picture("three/a.png", tmp_path, top=tmp_path).exists()


def in_coco(root, split):
    write_json(root / split / "_annotations.coco.json", coco(["a.png"]))


def in_voc(root, split):
    (root / split / "a.xml").write_text(voc("a.png", shift=1))


def in_cvat(root, split):
    image = '<image name="{0}/a.png" subset="{0}"><box label="cat" {1}/></image>'
    edges = 'xtl="1" ytl="2" xbr="3" ybr="4"'
    images = image.format("train", edges) + image.format("valid", edges)
    (root / "annotations.xml").write_text(f"<annotations>{images}</annotations>")


def in_yolo(root, split):
    (root / f"{split}.txt").write_text(f"{split}/a.png\n")
    (root / f"{split}/a.txt").write_text("0 0.5 0.5 0.1 0.1")
    (root / "data.yaml").write_text("train: train.txt\nval: valid.txt\nnames: [cat]")


@pytest.mark.parametrize("write", [in_coco, in_voc, in_cvat, in_yolo])
def test_a_missing_picture_is_not_replaced_by_that_of_another_split(tmp_path, write, capsys):
    for split in ("train", "valid"):
        save_picture(tmp_path / split / "a.png", (100, 50), seed=len(split))
        write(tmp_path, split)
    train, val = read(tmp_path)
    assert (train.name, val.name) == ("train", "val") and boxes(train, val)
    (tmp_path / "train/a.png").unlink()
    assert main(["check", str(tmp_path)]) == 1
    assert str(tmp_path / "train/a.png") in "".join(capsys.readouterr())


def test_a_missing_picture_is_not_replaced_by_that_of_another_name(tmp_path):
    """Also where folders tell no split, and within a split; but one of all splits is found."""
    for folder in ("b", "images"):
        save_picture(tmp_path / folder / f"{folder}.png", (8, 8))

    def found(*named):
        named = [Named(name, [tmp_path / folder], split) for folder, name, split in named]
        return [path.is_file() for path in find_pictures(named, tmp_path)]

    assert found(("", "b/b.png", "val"), ("", "a/b.png", "train")) == [True, False]
    assert found(("b", "b.png", "val"), ("a", "b.png", "train")) == [True, False]
    assert found(("", "b/b.png", "all"), ("", "a/b.png", "all")) == [True, False]
    assert found(("", "x/train/b.png", "train"), ("", "x/val/b.png", "val")) == [False, False]
    assert found(("", "x/b.png", "train"), ("", "x/b.png", "val")) == [True, True]
    # what says no split is left out beside others
    assert found(("", "b/b.png", "all"), ("", "x/b.png", "train")) == [True, True]
    assert found(("train", "images.png", "train"), ("val", "b.png", "val")) == [True, True]


@pytest.mark.parametrize("named", ["a.png", "old/a.png", "val2014/a.png"])
def test_splits_may_share_a_folder_that_is_called_after_one_of_them(tmp_path, named):
    save_picture(tmp_path / "all/val2014/a.png", (8, 8))
    save_picture(tmp_path / "all/val2014/b.png", (8, 8))
    pictures = [Named(named, [tmp_path], "train"), Named("b.png", [tmp_path], "val")]
    assert all(path.is_file() for path in find_pictures(pictures, tmp_path))


def test_what_macos_writes_beside_files_is_left_out(tmp_path):
    save_pictures(tmp_path)
    for name in PICTURES:
        (tmp_path / name).with_suffix(".xml").write_text(voc(name, shift=1))
        for hidden in (f"._{name}", f"._{Path(name).stem}.xml"):
            (tmp_path / hidden).write_bytes(b"\0\5\x16\7")
    assert_all_there(*read(tmp_path))


def test_a_picture_that_is_named_twice_is_read_once(tmp_path):
    write_yolo(tmp_path, "images", "labels")
    (tmp_path / "data.yaml").write_text(
        f"train: [images, {tmp_path}/images/../images]\nnames: [a, b]"
    )
    (split,) = read(tmp_path)
    assert len(split.content["images"]) == 2


def test_pictures_turned_by_their_camera_are_measured_upright(tmp_path):
    save_picture(tmp_path / "images/a.jpg", (100, 50))
    image = Image.open(tmp_path / "images/a.jpg")
    exif = image.getexif()
    exif[274] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "images/a.jpg", exif=exif)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "classes.txt").write_text("cat")
    (split,) = read(tmp_path)
    assert split.content["annotations"][0]["bbox"] == [0, 0, 50, 100]


def test_unreadable_pictures_are_reported_with_their_reason(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
    (tmp_path / "images/train/a.png").write_bytes(b"")
    (split,) = read(tmp_path)
    assert [error.reason for error in split.unreadable] == ["the file is empty"]
    assert set(boxes(split)) == {("b.png", "cat")}


def test_nothing_known_is_answered_with_what_is(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"no data set.*notes\.txt.*Known are: COCO.*YOLO"):
        read_data(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_data(tmp_path / "nowhere")


def test_two_files_for_one_split_are_not_guessed_between(tmp_path):
    for name in ("cats_train.json", "dogs_train.json"):
        write_json(tmp_path / name, coco())
    save_pictures(tmp_path)
    with pytest.raises(ValueError, match="several files for the split 'train'.*cats.*dogs"):
        read_data(tmp_path)


def test_classes_are_the_same_in_all_splits_after_renumbering(coco_folder, tmp_path):
    file = coco_folder / "valid/_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 7, "name": "bird"}, {"id": 9, "name": "cat"}]
    content["annotations"][0]["category_id"] = 9
    write_json(file, content)
    splits = same_classes(read(coco_folder))
    assert [split.class_names for split in splits] == [["cat", "dog", "bird"]] * 2
    assert boxes(*splits) == EXPECTED

    train, val = write_splits(splits, tmp_path / "out")
    assert json.loads(val.json_file.read_text())["annotations"][0]["category_id"] == 1
    assert val.json_file == tmp_path / "out" / "val.json"


def test_division_goes_by_file_names_alone(tmp_path):
    for number in range(10):
        save_picture(tmp_path / f"images/{number}.png", (8, 8), number)
    (tmp_path / "classes.txt").write_text("cat")
    (split,) = read(tmp_path)
    train, val = divide(split, 0.3)
    names = [{i["file_name"] for i in part.content["images"]} for part in (train, val)]
    assert (len(names[0]), len(names[1])) == (7, 3) and not names[0] & names[1]
    split.content["images"].reverse()
    again = divide(split, 0.3)[1]
    assert {i["file_name"] for i in again.content["images"]} == names[1]
    # one picture at least on either side
    assert [len(part.content["images"]) for part in divide(split, 0.999)] == [1, 9]
    assert np.sum([len(part.content["images"]) for part in divide(split, 0.001)]) == 10
