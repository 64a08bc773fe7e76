"""What is checked before the first step: both splits, and each against the other."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch.distributed as dist
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from PIL import Image

from co_detr.data.preflight import (
    _sendable,
    check_datasets,
    on_main_process,
    settle_validation,
)
from co_detr.engine.argument_checks import check_arguments
from co_detr.engine.settings import check_settings

BLOCK = Path(__file__).parents[2] / "configs" / "common" / "data" / "coco_detr.py"
SPLITS = ("train", "test")


@pytest.fixture
def check(tiny):
    """Check a config whose splits read the tiny dataset, after changes to the one for the test."""

    def with_changes(change_test=lambda content: None, splits=SPLITS, num_classes=2, names=None):
        block = LazyConfig.load(str(BLOCK)).dataloader
        cfg = OmegaConf.create({"model": {"num_classes": num_classes}, "dataloader": block})
        cfg.dataloader.train.dataset.names = names or tiny.register()
        change_test(tiny.content)
        cfg.dataloader.test.dataset.names = tiny.register()
        check_datasets(cfg, splits)

    return with_changes


def test_splits_that_suit_each_other_pass(check):
    check()


# ---------------------------------------------------------------------------- classes


def renumber(ids):
    def change(content):
        for category in content["categories"]:
            category["id"] = ids[category["id"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"]]

    return change


def test_the_order_in_the_list_and_the_ids_are_free(check):
    """What counts is the order of the ids, as in detectron2."""
    check(lambda content: content["categories"].reverse())
    check(renumber({5: 0, 9: 1}))


def test_the_same_classes_in_another_order_are_refused(check):
    message = (
        r"has the same classes in another order of their ids than tiny_\d+: "
        r"\[lamp, boat\] \(2\) and \[boat, lamp\] \(2\), first class 0: lamp instead of boat"
    )
    with pytest.raises(ValueError, match=message):
        check(renumber({5: 9, 9: 5}))


def without_lamps(content):
    content["categories"] = [c for c in content["categories"] if c["name"] != "lamp"]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 5]


@pytest.mark.parametrize(
    "change, found",
    [
        (without_lamps, r"\[boat\] \(1\) and \[boat, lamp\] \(2\)"),
        (lambda c: c["categories"][0].update(name="lantern"), r"\[boat, lantern\] \(2\) and"),
        (lambda c: c["categories"].append({"id": 7, "name": "buoy"}), r"\[boat, buoy, lamp\] \(3"),
    ],
)
def test_other_classes_are_refused_with_both_lists_and_no_wrong_advice(check, change, found):
    with pytest.raises(ValueError, match=f"has other classes than.*{found}") as caught:
        check(change)
    assert "write the same `categories`" in str(caught.value)
    assert "num_classes" not in str(caught.value)


def test_several_training_sets_must_agree(check, tiny):
    first = tiny.register()
    renumber({5: 9, 9: 5})(tiny.content)
    with pytest.raises(ValueError, match=f"another order of their ids than {first}"):
        check(names=[first, tiny.register()])


def test_the_number_of_classes_must_be_that_of_the_model(check):
    with pytest.raises(ValueError, match="predicts 80: set model.num_classes=2"):
        check(num_classes=80)


def test_evaluation_alone_asks_for_nothing_of_the_training_set(check):
    check(splits=("test",), names="no_such_dataset")
    with pytest.raises(KeyError, match="no_such_dataset"):
        check(names="no_such_dataset")


def test_annotations_of_the_test_split_are_checked(check):
    with pytest.raises(ValueError, match="annotation 2 has iscrowd 3"):
        check(lambda content: content["annotations"][1].update(iscrowd=3))


# ---------------------------------------------------------------------------- pictures


def test_missing_pictures_of_either_split_are_counted_and_named(check, tiny):
    def more_pictures(content):
        for number in range(6, 10):
            content["images"].append(
                {"id": number, "file_name": f"deep/er/{number}.png", "height": 9, "width": 9}
            )

    with pytest.raises(
        FileNotFoundError, match=r"4 of 8.*/deep/er/6.png, .*/8.png, \.\.\.\. Fetch"
    ):
        check(more_pictures)
    (tiny.root / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"5 of 8 .* missing: .*/pictures/2\.png, "):
        check()


@pytest.mark.parametrize("written", ["sub\\my 3.png", "sub/my%203.png"])
def test_names_in_other_spellings_get_a_hint(check, tiny, written):
    def move(content):
        (tiny.root / "sub").mkdir()
        (tiny.root / "sub" / "my 3.png").write_bytes((tiny.root / "3.png").read_bytes())
        content["images"][2]["file_name"] = written

    with pytest.raises(FileNotFoundError, match="There is .*/sub/my 3.png: .* in its names"):
        check(move)


@pytest.mark.parametrize("name", ["./3.png", "../pictures/3.png", "ünï/日本 3.PNG", "absolute"])
def test_names_of_every_kind_are_found(check, tiny, name):
    def move(content):
        target = tiny.root / name
        target.parent.mkdir(exist_ok=True)
        if "3.png" not in name:
            target.write_bytes((tiny.root / "3.png").read_bytes())
        content["images"][2]["file_name"] = str(target) if name == "absolute" else name

    check(move)


def test_pictures_of_another_size_than_annotated_are_refused(check):
    message = "1 of 4 pictures looked at.*/3.png is 40 high and 64 wide, annotated are 480 and 640"
    with pytest.raises(ValueError, match=message):
        check(lambda content: content["images"][2].update(height=480, width=640))


def test_a_picture_on_its_side_is_told_from_one_of_another_size(check, tiny):
    def turn(content):
        picture = Image.open(tiny.root / "3.png")
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(tiny.root / "3.jpg", exif=exif)
        content["images"][2]["file_name"] = "3.jpg"

    with pytest.raises(ValueError, match="3.jpg is 64 high and 40 wide.*EXIF orientation"):
        check(turn)


def test_a_broken_picture_is_left_to_who_reads_it(check, tiny):
    (tiny.root / "3.png").write_bytes(b"")
    check()


def test_pictures_that_are_all_broken_are_refused(check, tiny):
    for picture in tiny.root.iterdir():
        picture.write_bytes(b"no picture")
    with pytest.raises(OSError, match="none of 4 pictures looked at can be.*unreadable: .*1.png"):
        check()


def test_sizes_are_those_of_a_sample(check, tiny, monkeypatch):
    """Every second of 100 pictures is looked at."""
    seen = []
    size = "co_detr.data.preflight.picture_size"
    monkeypatch.setattr(size, lambda path: seen.append(Path(path).stem) or (9, 9))
    for number in range(100):
        tiny.content["images"].append(
            {"id": 1000 + number, "file_name": f"x{number}.png", "height": 9, "width": 9}
        )
        (tiny.root / f"x{number}.png").touch()
    tiny.content["images"] = tiny.content["images"][4:]
    tiny.content["annotations"] = []
    check(splits=("test",))
    assert seen == [f"x{number}" for number in range(0, 100, 2)]


# ---------------------------------------------------------------------------- without validation


@pytest.mark.parametrize("none", [None, "None"])
@pytest.mark.parametrize("key", ["dataloader.test", "dataloader.test.dataset.names"])
def test_without_a_validation_set_nothing_of_it_is_demanded(tiny, tmp_path, key, none):
    cfg = LazyConfig.load(str(BLOCK))
    cfg.dataloader.train.dataset.names = tiny.register()
    OmegaConf.update(cfg, key, none)
    check_settings(cfg)
    check_arguments(cfg)
    settle_validation(cfg)
    check_datasets(cfg, SPLITS)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))  # the evaluator refers to no dataset
    assert OmegaConf.select(cfg, key) is None and cfg.dataloader.evaluator is None


def test_without_an_evaluator_nothing_of_a_validation_set_is_demanded(tiny):
    cfg = LazyConfig.load(str(BLOCK))
    cfg.dataloader.train.dataset.names = tiny.register()
    cfg.dataloader.evaluator = None
    check_datasets(cfg, SPLITS)


# ---------------------------------------------------------------------------- several ranks


class Odd(Exception):
    """One that pickle writes, but cannot read."""

    def __init__(self, file, line):
        super().__init__(f"{file}:{line}")


def test_errors_that_cannot_be_sent_travel_as_text():
    error = _sendable(Odd("a.json", 7))
    assert isinstance(error, RuntimeError) and str(error) == "Odd: a.json:7"
    error = _sendable(FileNotFoundError("a.json"))
    assert isinstance(error, FileNotFoundError) and str(error) == "a.json"


def _rank(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    seen = []

    def check():
        seen.append("checked")
        raise ValueError("the file is wrong")

    try:
        on_main_process(lambda: seen.append("passed"))
        on_main_process(check)
    except ValueError as error:
        seen.append(str(error))
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def test_the_main_process_checks_and_all_ranks_stop(tmp_path):
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert seen == [["passed", "checked", "the file is wrong"], ["the file is wrong"]]
