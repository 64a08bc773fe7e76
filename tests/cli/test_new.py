"""From a folder to a config that trains and evaluates; and the report on the data."""

import json
import shutil

import numpy as np
import pytest
from pets import CLASSES, PICTURES, coco, save_picture, save_pictures, write_json

from co_detr.cli import main
from co_detr.data.formats import read_data
from co_detr.data.formats.writing import write_splits
from co_detr.data.survey import survey
from co_detr.data.survey.page import as_page, sample
from co_detr.data.survey.text import as_text
from co_detr.recipes.plan import Machine, plan


def look(folder, tmp_path, quick=False):
    kind, splits = read_data(folder)
    return survey(kind, write_splits(splits, tmp_path / "written"), quick)


# ---------------------------------------------------------------------------------- new


def test_new_then_train_then_evaluate_then_predict(coco_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["new", "birds.py", "--data", "pets", "--model", "co_deformable_detr_digits_k0"]
    assert main([*words, "--epochs", "3"]) == 0
    shown = capsys.readouterr().out
    assert "3 epochs of 1 iterations of 1 on " in shown and "Next: co-detr train birds.py" in shown

    workers = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    options = ["--num-gpus", "1", "train.device=cpu", *workers]
    assert main(["train", "birds.py", *options, "train.max_iter=2"]) == 0
    best = tmp_path / "output/birds/model_best.pth"
    assert best.is_file()
    assert main(["evaluate", "birds.py", str(best), *options]) == 0
    results = json.loads((tmp_path / "output/birds/evaluation.json").read_text())
    assert "bbox/AP" in results and results["bbox/AP-cat"] >= 0

    words = ["predict", str(best), "pets/valid", "--output", "out", "--confidence-threshold", "0"]
    assert main([*words, "train.device=cpu"]) == 0
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [c["name"] for c in found["categories"]] == CLASSES and found["annotations"]

    # a second one is refused before anything is looked at
    assert main(["new", "birds.py", "--data", "pets"]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err


@pytest.fixture
def one_split(tmp_path, monkeypatch):
    """Ten pictures of no split, as YOLO, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots/labels").mkdir(parents=True)
    for number in range(10):
        save_picture(tmp_path / f"shots/images/{number}.png", (400, 300), number)
        (tmp_path / f"shots/labels/{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "shots/classes.txt").write_text("cat\n")
    return tmp_path


def test_data_without_a_split_are_divided_and_written_beside_the_config(one_split, capsys):
    words = ["new", "conf/cats.py", "--data", "shots", "--model", "co_dino_digits"]
    assert main([*words, "--val-share", "0.3"]) == 0
    assert "3 pictures, 30%, are kept for it" in capsys.readouterr().out
    parts = [json.loads((one_split / f"conf/cats_data/{s}.json").read_text()) for s in SPLITS]
    assert [len(part["images"]) for part in parts] == [7, 3]
    assert parts[0]["annotations"][0]["bbox"] == [180, 135, 40, 30]

    from co_detr.arguments import load_config

    cfg, _ = load_config("conf/cats.py")
    assert cfg.model.num_classes == 1
    assert cfg.dataloader.train.dataset.names == "cats_train"
    # larger than what the small models are for
    (scale,) = cfg.dataloader.train.mapper.augmentations
    assert scale.max_size == 256
    text = (one_split / "conf/cats.py").read_text()
    assert 'HERE / "cats_data/train.json"' in text
    assert max(map(len, text.splitlines())) <= 100
    load_config("conf/cats.py")  # again, as processes of a job do

    (one_split / "conf/cats.py").unlink()
    assert main(words) == 1
    assert "conf/cats_data/train.json already" in capsys.readouterr().err
    assert not (one_split / "conf/cats.py").exists()


SPLITS = ("train", "val")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "co_dino_r50_5scale_12ep_lvis"], "is evaluated as LVIS"),
        (["--model", "co_deformable_detr_digits_mask_rcnn"], "learns masks, but the data have box"),
        (["--weights", "absent.pth"], "there are no weights absent.pth"),
        (["--model", "co_dino_r51"], "Is one of these meant: "),
    ],
)
def test_what_cannot_be_trained_is_refused(one_split, words, message, capsys):
    assert main(["new", "cats.py", "--data", "shots", "--quick", *words]) == 1
    assert message in capsys.readouterr().err
    assert {path.name for path in one_split.iterdir()} == {"shots"}


def test_a_config_does_not_take_the_name_of_another_data_set(coco_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "digits.py", "--data", "pets", "--model", "co_dino_digits"]) == 0
    assert '"my_digits_train"' in (tmp_path / "digits.py").read_text()


def test_names_stay_text_in_the_config(one_split):
    """Quotes, a backslash, letters and signs of any script, and what would be code."""
    shots, weights = one_split / 'é🐦 \\N"+open("ran","w").name+"', one_split / 'a "model".pth'
    (one_split / "shots").rename(shots)
    weights.touch()
    name = 'my """cats""" \\x.py'
    words = ["new", name, "--data", str(shots), "--model", "co_dino_digits", "--quick"]
    assert main([*words, "--weights", str(weights)]) == 0

    from detectron2.data import MetadataCatalog

    from co_detr.arguments import load_config

    cfg, _ = load_config(name)
    assert not (one_split / "ran").exists()
    assert cfg.train.init_checkpoint == str(weights)
    assert cfg.train.output_dir == "output/" + name.removesuffix(".py")
    metadata = MetadataCatalog.get(cfg.dataloader.train.dataset.names)
    assert metadata.image_root == str(shots / "images")
    assert "é🐦" in (one_split / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "pictures, machine, small, expected",
    [
        # a published share, 2 of 16, per 24 GiB: batch, epochs, iterations of an epoch
        (1600, Machine(8, 24), False, (16, 15, 100)),
        (1600, Machine(1, 80), False, (6, 12, 267)),
        (1600, Machine(2, 11), False, (2, 12, 800)),
        (1600, Machine(4, 80), False, (16, 15, 100)),
        (1600, Machine(0), False, (2, 12, 800)),
        (1600, Machine(0), True, (16, 15, 100)),
        (3, Machine(0), True, (3, 100, 1)),
        (20, Machine(1, 24), False, (2, 100, 10)),
    ],
)
def test_plan(pictures, machine, small, expected):
    found = plan(pictures, 16, machine, small, None)
    assert (found.batch_size, found.epochs, found.iterations_per_epoch) == expected
    assert found.reference_batch_size == 16
    assert found.epochs / found.epochs_per_evaluation <= 12
    assert plan(pictures, 16, machine, small, 5).epochs == 5


# ---------------------------------------------------------------------------------- check


def test_a_survey_counts_what_is_there(coco_folder, tmp_path):
    found = look(coco_folder, tmp_path)
    train, val = found.splits
    assert found.classes == CLASSES and not found.faults
    assert dict(train.objects) == {"cat": 1, "dog": 1} and dict(val.objects) == {"cat": 1, "dog": 0}
    # 30 x 20 is small, 40 x 30 = 1200 and 20 x 40 are below and above 32^2 = 1024
    assert train.sizes == (1, 1, 0) and val.sizes == (1, 0, 0)
    assert (train.num_empty, train.outside) == (0, 0)
    assert found.warnings == [
        "train: fewer than 10 objects of cat (1), dog (1)",
        "val: fewer than 1 objects of dog (0)",
    ]
    text = as_text(found)
    assert "typical box, pixels    35 x 25" in text and "small, medium, large   1, 1, 0" in text


def test_a_check_finds_what_is_broken(coco_folder, tmp_path, capsys):
    """A missing, a broken and a resized picture, one without objects, a copy, a box outside."""
    content = coco()
    for number, name in enumerate(("missing", "broken", "resized", "copy"), start=3):
        content["images"].append(
            {"id": number, "file_name": f"{name}.png", "width": 40, "height": 80}
        )
    content["annotations"][0]["bbox"] = [90, 5, 30, 20]
    write_json(coco_folder / "train/_annotations.coco.json", content)
    save_pictures(coco_folder / "train")
    save_picture(coco_folder / "train/resized.png", (20, 40), seed=9)
    shutil.copy(coco_folder / "valid/b.png", coco_folder / "train/copy.png")
    whole = (coco_folder / "train/copy.png").read_bytes()
    (coco_folder / "train/broken.png").write_bytes(whole[: len(whole) // 2])

    assert main(["check", str(coco_folder)]) == 1
    shown = capsys.readouterr().out
    for text in (
        "train: 1 pictures are missing: ",
        "1 pictures have another size than annotated: ",
        "1 pictures cannot be read: ",
        "train: 1 boxes stick out",
        "1 pictures are in two splits",
    ):
        assert text in shown, text
    train = look(coco_folder, tmp_path).splits[0]
    assert train.num_empty == 4
    # without decoding, half a picture looks whole
    assert not look(coco_folder, tmp_path, quick=True).splits[0].broken


def test_annotations_without_a_meaning_end_the_check(coco_folder, capsys):
    content = coco(["a.png"])
    content["annotations"][0]["image_id"] = 77
    write_json(coco_folder / "train/_annotations.coco.json", content)
    assert main(["check", str(coco_folder)]) == 1
    assert "belongs to image 77" in capsys.readouterr().err


def test_the_page_shows_pictures_and_needs_nothing_else(coco_folder, tmp_path, capsys):
    page = tmp_path / "pets.html"
    assert main(["check", str(coco_folder), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.count("<img src='data:image/jpeg;base64,") == 2
    assert "src='http" not in text and "<td>cat" in text
    assert main(["check", str(coco_folder), "--page", str(page)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_names_on_the_page_are_text(coco_folder, tmp_path):
    for split in ("train", "valid"):
        file = coco_folder / split / "_annotations.coco.json"
        file.write_text(file.read_text().replace('"dog"', '"<script>"'))
    text = as_page(look(coco_folder, tmp_path), "<b>")
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>" not in text


def test_the_sample_has_every_class(tmp_path):
    content = coco(["a.png"])
    for number in range(2, 40):
        content["images"].append({**content["images"][0], "id": number, "file_name": "a.png"})
    content["annotations"][1]["image_id"] = 38  # the only dog
    write_json(tmp_path / "pets/labels.json", content)
    save_picture(tmp_path / "pets/a.png", PICTURES["a.png"][0])
    (split,) = look(tmp_path / "pets", tmp_path).splits
    chosen = sample(split, 5)
    assert len(chosen) == 5 and 38 in [record["image_id"] for record in chosen]


def test_a_config_can_be_checked(coco_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["new", "pets_again.py", "--data", "pets", "--model", "co_dino_digits"])
    capsys.readouterr()
    assert main(["check", "pets_again.py"]) == 0
    assert "COCO, 2 classes" in capsys.readouterr().out


def test_an_empty_data_set_is_a_fault_and_no_crash(tmp_path):
    write_json(tmp_path / "pets/labels.json", coco(["a.png"]) | {"annotations": []})
    save_picture(tmp_path / "pets/a.png", PICTURES["a.png"][0])
    found = look(tmp_path / "pets", tmp_path)
    assert found.faults == ["all: there are no objects in it"]
    assert np.array_equal(found.splits[0].boxes, np.zeros((0, 4)))
    assert "typical box, pixels" in as_text(found)
