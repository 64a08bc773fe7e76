"""tools/predict.py from files on disk to pictures and annotations, with a detector made for it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from bright_detector import BrightDetector
from detectron2.config import instantiate
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO
from trained import CATEGORIES, NAME, trained

from co_detr import load_detector, model_zoo
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.inference.dataset_ids import DatasetIds
from co_detr.inference.drawing import draw
from co_detr.inference.inputs import find_pictures, picture_suffixes
from co_detr.inference.predictor import load_categories
from co_detr.inference.writers import ResultWriter, to_annotations

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("predict", ROOT / "tools" / "predict.py")
predict = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(predict)

CONFIG = """
from bright_detector import BrightDetector
from detectron2.config import LazyCall as L
from detectron2.data.datasets import register_coco_instances
from detectron2.data import DatasetCatalog, DatasetMapper, transforms as T

if "bright_objects" not in DatasetCatalog.list():
    register_coco_instances("bright_objects", {}, "absent.json", "absent")
model = L(BrightDetector)(num_classes=2)
train = dict(device="cpu", init_checkpoint="")
dataloader = dict(test=dict(
    dataset=dict(names="bright_objects"),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=40, max_size=200)],
        image_format="RGB",
    ),
))
"""


@pytest.fixture
def pictures(tmp_path):
    """Two dark pictures with a white rectangle, 20 rows by 30 columns at (10, 8) and (4, 2)."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, (x, y) in {"a.png": (10, 8), "b.jpg": (4, 2)}.items():
        pixels = np.zeros((50, 80, 3), dtype=np.uint8)
        pixels[y : y + 20, x : x + 30] = 255
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def run(tmp_path):
    """Runs the tool on inputs; returns the exit code and the folder with the results."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    model = BrightDetector()
    model.score.data.fill_(0.75)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")

    def run(*inputs, options=(), weights=f"train.init_checkpoint={tmp_path}/model.pth"):
        argv = ["--config-file", str(config), "--input", *map(str, inputs)]
        argv += ["--output", str(tmp_path / "out"), *options, weights]
        return predict.main(argv), run.out

    run.out = tmp_path / "out"
    return run


def _predictions(out):
    return json.loads((out / "predictions.json").read_text())


def test_boxes_come_back_in_pixels_of_the_picture(run, pictures):
    code, out = run(pictures / "a.png")
    assert code == 0
    (found,) = _predictions(out)["annotations"]
    assert found["bbox"] == pytest.approx([10, 8, 30, 20], abs=1.3)  # seen at 40/50 of its size
    assert (found["score"], found["category_id"], found["image_id"]) == (0.75, 1, 1)


def test_the_weights_of_the_checkpoint_are_used(run, pictures, tmp_path):
    model = BrightDetector()
    model.score.data.fill_(0.625)
    torch.save({"model": model.state_dict()}, tmp_path / "other.pth")
    _, out = run(pictures, weights=f"train.init_checkpoint={tmp_path}/other.pth")
    assert {a["score"] for a in _predictions(out)["annotations"]} == {0.625}


def test_weights_of_another_model_are_refused(run, pictures, tmp_path):
    torch.save({"model": {"score": torch.ones(3)}}, tmp_path / "other.pth")
    with pytest.raises(UnfittingCheckpointError, match=r"score: file \(3,\), model"):
        run(pictures, weights=f"train.init_checkpoint={tmp_path}/other.pth")
    assert not (tmp_path / "out").exists()


def test_threshold_is_inclusive_and_applies_to_each_detection(run, pictures):
    for threshold, expected in (("0.05", 4), ("0.75", 2), ("0.76", 0)):
        options = ["--confidence-threshold", threshold, "--overwrite"]
        _, out = run(pictures, options=options)
        assert len(_predictions(out)["annotations"]) == expected


def test_the_json_is_a_coco_file(run, pictures):
    _, out = run(pictures)
    coco = COCO(str(out / "predictions.json"))
    assert [Path(image["file_name"]).name for image in coco.imgs.values()] == ["a.png", "b.jpg"]
    assert {(image["height"], image["width"]) for image in coco.imgs.values()} == {(50, 80)}
    assert len(coco.getAnnIds()) == 2
    assert coco.cats[1]["name"] == "class 1"  # this dataset has no names to offer


def test_names_of_a_dataset_with_other_classes_are_not_used(monkeypatch):
    metadata = Metadata(thing_classes=["cat", "dog"])
    monkeypatch.setattr("detectron2.data.MetadataCatalog.get", lambda name: metadata)
    cfg = OmegaConf.create({"model": {"num_classes": 2}, "dataloader": {}})
    OmegaConf.update(cfg, "dataloader.test.dataset.names", "animals")
    categories, named = load_categories(cfg)
    assert [c["name"] for c in categories] == ["cat", "dog"] and named
    cfg.model.num_classes = 3
    categories, named = load_categories(cfg)
    assert [c["name"] for c in categories] == ["class 0", "class 1", "class 2"] and not named


def test_without_a_test_dataset_the_training_dataset_gives_the_names(monkeypatch):
    metadata = {"animals": Metadata(thing_classes=["cat", "dog"])}
    monkeypatch.setattr("detectron2.data.MetadataCatalog.get", metadata.__getitem__)
    cfg = OmegaConf.create({"model": {"num_classes": 2}, "dataloader": {"test": None}})
    OmegaConf.update(cfg, "dataloader.train.dataset.names", ["animals", "more"])
    assert [c["name"] for c in load_categories(cfg)[0]] == ["cat", "dog"]


def test_pictures_are_drawn_on(run, pictures):
    _, out = run(pictures)
    for name in ("a.png", "b.jpg"):
        drawn = np.asarray(Image.open(out / name).convert("RGB"), dtype=int)
        factor = drawn.shape[0] // 50
        assert drawn.shape == (50 * factor, 80 * factor, 3) and drawn.shape[0] >= 384
        colourful = np.ptp(drawn, axis=2) > 60
        assert colourful.any()
        assert not colourful[-5 * factor :, -5 * factor :].any()


@pytest.mark.parametrize(
    "size, drawn",
    [((10, 10), (390, 390)), ((1, 2000), (1, 2000)), ((500, 600), (500, 600))],
)
def test_small_pictures_are_enlarged_within_bounds(size, drawn):
    nothing = Instances(
        size, pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0), pred_classes=torch.ones(0)
    )
    assert draw(np.zeros((*size, 3), np.uint8), nothing, ["a"]).shape[:2] == drawn


def test_broken_pictures_are_counted_and_left_out(run, pictures, capsys):
    (pictures / "c.png").write_bytes(b"no picture")
    code, out = run(pictures)
    assert code == 0
    assert len(_predictions(out)["images"]) == 2
    assert "1 could not be read" in capsys.readouterr().out


def test_more_unreadable_pictures_than_allowed_are_a_failure_at_the_end(run, pictures):
    for number in range(11):
        (pictures / f"{number}.png").write_bytes(b"no picture")
    code, out = run(pictures)
    assert code == 1 and len(_predictions(out)["images"]) == 2


def test_strips_and_deep_pictures_are_predicted_on(run, tmp_path):
    deep = np.zeros((50, 80), np.uint16)
    deep[8:28, 10:40] = 65535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(np.full((1, 5000), 255, np.uint8)).save(tmp_path / "strip.png")
    code, out = run(tmp_path / "deep.png", tmp_path / "strip.png")
    found, strip = _predictions(out)["annotations"]
    assert code == 0 and found["bbox"] == pytest.approx([10, 8, 30, 20], abs=1.3)
    assert strip["bbox"] == [0, 0, 5000, 1]


def test_nothing_readable_is_a_failure(run, tmp_path):
    (tmp_path / "c.png").write_bytes(b"no picture")
    assert run(tmp_path / "c.png")[0] == 1


def test_weights_are_required(run, pictures):
    with pytest.raises(ValueError, match="train.init_checkpoint="):
        run(pictures, weights="train.device=cpu")


def test_a_checkpoint_brings_its_config_and_its_classes(pictures, tmp_path):
    path = trained(tmp_path, resize=(100, 200))
    argv = ["--input", str(pictures), "--confidence-threshold", "0"]
    for number, weights in enumerate((["--weights", str(path)], [f"train.init_checkpoint={path}"])):
        out = tmp_path / str(number)
        assert predict.main([*argv, "--output", str(out), *weights, "train.device=cpu"]) == 0
        content = _predictions(out)
        assert content["categories"] == CATEGORIES
        by_picture = Counter(a["image_id"] for a in content["annotations"])
        assert by_picture == {1: 40, 2: 40}
        expected = load_detector(path, device="cpu")(pictures / "a.png", threshold=0)
        found = [a["score"] for a in content["annotations"] if a["image_id"] == 1]
        assert sorted(found) == pytest.approx(sorted(expected.scores.tolist()), abs=1e-5)


def test_a_checkpoint_without_a_config_needs_one(pictures, tmp_path):
    path = trained(tmp_path, card=False)
    argv = ["--input", str(pictures), "--output", str(tmp_path / "out"), "--weights", str(path)]
    with pytest.raises(ValueError, match=r"model\.pth carries none: add .*--config-file"):
        predict.main(argv)
    assert not (tmp_path / "out").exists()
    assert predict.main([*argv, "--config-file", NAME, "train.device=cpu"]) == 0


def test_files_folders_and_patterns_are_found_once(pictures, tmp_path):
    (pictures / "notes.txt").touch()
    both = [pictures / "a.png", pictures / "b.jpg"]
    assert find_pictures([str(pictures)]) == (both, {"no pictures by their suffix": 1})
    assert find_pictures([str(pictures / "*.jpg"), str(pictures)])[0] == both[::-1]
    for nothing in (str(tmp_path), str(pictures / "*.gif"), "train.init_checkpoint=x"):
        with pytest.raises(FileNotFoundError, match=nothing.replace("*", r"\*")):
            find_pictures([nothing])


def test_folders_in_folders_are_found_where_asked_for(pictures):
    deep = pictures / "more" / "deep"
    deep.mkdir(parents=True)
    out = pictures / "out"
    out.mkdir()
    for path in (deep / "c.WEBP", pictures / "more" / "d.tif", out / "a.png", out / "b.png"):
        path.touch()
    (deep / "circle").symlink_to(pictures)
    assert len(find_pictures([str(pictures)])[0]) == 2
    found, skipped = find_pictures([str(pictures)], recursive=True, output=out)
    names = [str(path.relative_to(pictures)) for path in found]
    assert names == ["a.png", "b.jpg", "more/d.tif", "more/deep/c.WEBP"]
    assert skipped["in the output folder"] == 2
    with pytest.raises(FileNotFoundError, match="--recursive"):
        (pictures / "more" / "d.tif").unlink()
        find_pictures([str(pictures / "more")])


def test_suffixes_are_those_that_pillow_reads():
    common = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm"}
    assert common | {".ppm", ".tga", ".mpo"} <= picture_suffixes()
    assert not {".pdf", ".mpg", ".h5", ".txt", ""} & picture_suffixes()  # written, or only named


def test_pictures_of_one_name_do_not_overwrite_each_other(run, pictures, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    (other / "a.png").write_bytes((pictures / "a.png").read_bytes())
    _, out = run(pictures / "a.png", other)
    assert (out / "a.png").is_file() and (out / "a_2.png").is_file()


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_inputs_are_never_written_on(run, pictures, tmp_path):
    """Not where they lie in the output folder, nor through links there."""
    before = _contents(pictures)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").hardlink_to(pictures / "a.png")
    (out / "b.jpg").symlink_to(pictures / "b.jpg")
    (out / "a_2.png").write_bytes(b"somebody else's")
    assert run(pictures)[0] == 0
    assert _contents(pictures) == before
    assert (out / "a_2.png").read_bytes() == b"somebody else's"
    for name in ("a_3.png", "b_2.jpg"):
        assert Image.open(out / name).size == (640, 400)

    assert run(pictures, options=["--output", str(pictures), "--overwrite"])[0] == 0
    assert {name: _contents(pictures)[name] for name in before} == before


def test_results_of_another_run_are_replaced_only_if_asked(run, pictures):
    _, out = run(pictures / "a.png")
    before = _contents(out)
    with pytest.raises(FileExistsError, match="predictions.json.*--overwrite"):
        run(pictures / "b.jpg")
    assert _contents(out) == before
    run(pictures / "b.jpg", options=["--overwrite"])
    assert [Path(i["file_name"]).name for i in _predictions(out)["images"]] == ["b.jpg"]


def test_an_output_that_is_a_file_is_refused(run, pictures, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(NotADirectoryError, match="out is a file: name a folder"):
        run(pictures)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_leaves_what_it_has_done(run, pictures, monkeypatch, number, code):
    add = ResultWriter.add

    def interrupted(self, *args):
        add(self, *args)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(ResultWriter, "add", interrupted)
    handler = signal.getsignal(signal.SIGTERM)
    assert run(pictures)[0] == code
    assert signal.getsignal(signal.SIGTERM) == handler
    found = _predictions(run.out)
    assert [Path(i["file_name"]).name for i in found["images"]] == ["a.png"]
    assert [a["image_id"] for a in found["annotations"]] == [1]


def test_an_error_leaves_what_was_done_too(run, pictures, monkeypatch):
    add = ResultWriter.add

    def fails(self, path, *args):
        if path.name == "b.jpg":
            raise OSError("no room")
        add(self, path, *args)

    monkeypatch.setattr(ResultWriter, "add", fails)
    with pytest.raises(OSError, match="no room"):
        run(pictures)
    assert len(_predictions(run.out)["images"]) == 1


def test_results_have_the_ids_of_the_dataset(run, pictures, tmp_path, capsys):
    extra = pictures / "unlisted.png"
    extra.write_bytes((pictures / "a.png").read_bytes())
    content = listing({70: "val/a.png", 9: "b.jpg"}, {8: "bright", 3: "all"})
    (tmp_path / "ids.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    pictures = pictures.rename(tmp_path / "val")
    options = ["--annotations", f"{tmp_path}/ids.json", "--results", f"{tmp_path}/found.json"]
    code, out = run(pictures, options=options)
    assert code == 0
    results = json.loads((tmp_path / "found.json").read_text())
    # all detections, whatever their scores; class 0 has the least id
    ids = [(r["image_id"], r["category_id"], r["score"]) for r in results]
    assert ids == [(70, 8, 0.75), (70, 3, 0.1), (9, 8, 0.75), (9, 3, 0.1)]
    assert results[1]["bbox"] == [0, 0, 80, 50]
    assert {frozenset(r) for r in results} == {
        frozenset({"image_id", "category_id", "bbox", "score"})
    }
    assert [image["id"] for image in _predictions(out)["images"]] == [70, 9]
    assert len(_predictions(out)["annotations"]) == 2
    assert "1 not listed in the annotations" in capsys.readouterr().out

    for target in ("found.json", "ids.json"):  # results that are there; what the run reads
        options = ["--annotations", f"{tmp_path}/ids.json", "--results", f"{tmp_path}/{target}"]
        options += ["--output", f"{tmp_path}/other"] + ["--overwrite"] * (target == "ids.json")
        with pytest.raises(FileExistsError, match=target):
            run(pictures, options=options)


def test_results_without_ids_are_refused(run, pictures, capsys):
    with pytest.raises(SystemExit):
        run(pictures, options=["--results", "found.json"])
    assert "--results needs --annotations" in capsys.readouterr().err


def listing(images, categories):
    """The content of a COCO file: id -> file name, and id -> name."""
    return {
        "images": [
            {"id": i, "file_name": name, "height": 50, "width": 80} for i, name in images.items()
        ],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
    }


@pytest.fixture
def ids_of(tmp_path):
    """The `DatasetIds` of a file with a content, which may be a text."""

    def read(content, encoding="utf-8"):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "ids.json").write_text(text, encoding=encoding)
        return DatasetIds(tmp_path / "ids.json")

    return read


def classes(*names):
    """What a model knows of its classes."""
    return [{"id": i, "name": name} for i, name in enumerate(names)]


def test_ids_follow_the_longest_common_end_of_the_names(ids_of):
    images = {1: "train/1.jpg", 2: "val/1.jpg", 3: "3.jpg", 4: "a\\4.jpg", 6: "7.jpg", 7: "7.jpg"}
    ids = ids_of(listing(images, {1: "cat"}))
    wanted = {"/data/val/1.jpg": 2, "/data/train/1.jpg": 1, "/x/3.jpg": 3, "a/4.jpg": 4, "4.jpg": 4}
    wanted |= {"/x/1.jpg": None, "6.jpg": None, "7.jpg": None}
    assert {path: ids.image_id(Path(path)) for path in wanted} == wanted


def test_ids_of_a_file_in_lvis_format(ids_of):
    """Pictures by their addresses, classes by their first synonyms, as in training."""
    content = listing({5: "COCO_5.jpg", 6: "6.jpg"}, {1: "cat", 2: "dog"})
    content["images"][0]["coco_url"] = "http://host/val2017/5.jpg"
    content["categories"][0]["synonyms"] = ["house cat", "cat"]
    ids = ids_of(content)
    found = [ids.image_id(Path(path)) for path in ("/x/val2017/5.jpg", "6.jpg", "COCO_5.jpg")]
    assert found == [5, 6, None]
    assert [c["id"] for c in ids.categories_of(classes("dog", "house cat"), True)] == [2, 1]
    # the same file registered as one in COCO format
    assert [c["id"] for c in ids.categories_of(classes("dog", "cat"), True)] == [2, 1]


def test_ids_are_those_of_training_and_evaluation(ids_of):
    content = listing({"1": "a.png", "2": "b.png"}, {"2": "two", "10": "ten", "1": "one"})
    box = {"bbox": [0, 0, 9, 9], "category_id": "10"}
    content["annotations"] = [{"id": 1, "image_id": 1, **box}]
    for encoding in ("utf-8", "utf-16"):
        ids = ids_of(content, encoding)
        assert [ids.image_id(Path(name)) for name in ("a.png", "b.png")] == [1, 2]
        # "1", "10", "2" in the order of texts
        assert ids.categories_of(classes("class 0", "class 1", "class 2"), False) == [
            {"id": 1, "name": "one"},
            {"id": 2, "name": "two"},
            {"id": 10, "name": "ten"},
        ]


def test_categories_are_matched_by_their_names(ids_of):
    ids = ids_of(listing({1: "a.png"}, {2: "cat", 7: "dog"}))
    assert [c["id"] for c in ids.categories_of(classes("dog", "cat"), True)] == [7, 2]
    assert [c["id"] for c in ids.categories_of(classes("class 0", "class 1"), False)] == [2, 7]
    for known, named in ((classes("dog", "cow"), True), (classes("class 0"), False)):
        with pytest.raises(ValueError, match="ids.json has the 2 categories cat, dog, the model"):
            ids.categories_of(known, named)
    # the model of a file with two categories of one name knows them by these
    ids = ids_of(listing({1: "a.png"}, {1: "cat", 2: "dog", 3: "cat"}))
    known = classes("dog", "cat (id 3)", "cat (id 1)")
    assert [c["id"] for c in ids.categories_of(known, True)] == [2, 3, 1]
    # or, registered with plain names, by their order alone
    known = classes("cat", "dog", "cat")
    assert [c["id"] for c in ids.categories_of(known, True)] == [1, 2, 3]
    with pytest.raises(ValueError, match="the model the 3 classes dog, cat, cat"):
        ids.categories_of(classes("dog", "cat", "cat"), True)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "is no COCO detection file"),
        ("[" * 100_000, "is no JSON file"),
        ("{", "is no JSON file"),
        ('{"images": ["a.png"], "categories": []}', "`images` has 'a.png' for entry number 0"),
        ('{"images": 5, "categories": []}', "`images` is of the type int"),
    ],
)
def test_a_file_without_ids_is_refused(text, message, ids_of):
    with pytest.raises(ValueError, match=rf"ids\.json:? {message}"):
        ids_of(text)


def test_labels_stay_with_their_boxes_on_crowded_pictures(monkeypatch):
    supervision = pytest.importorskip("supervision")
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 560, (120, 2)).round()
    boxes = np.concatenate([corners, corners + rng.uniform(15, 80, (120, 2))], axis=1)
    crowd = Instances(
        (640, 640),
        pred_boxes=Boxes(torch.tensor(boxes)),
        scores=torch.linspace(0.5, 0.9, 120),
        pred_classes=torch.zeros(120, dtype=torch.int64),
    )
    drawn = []
    annotator = supervision.LabelAnnotator
    draw_labels = annotator._draw_labels

    def note(self, **arguments):
        place = arguments["label_properties"][:, :4]
        drawn.extend(zip(arguments["detections"].xyxy, place))
        return draw_labels(self, **arguments)

    monkeypatch.setattr(annotator, "_draw_labels", note)
    draw(np.zeros((640, 640, 3), np.uint8), crowd, ["seed"])
    assert len(drawn) == 120
    for box, label in drawn:
        # touches the box, and lies in the picture
        assert label[0] <= box[2] and label[2] >= box[0]
        assert label[1] <= box[3] and label[3] >= box[1] - 1
        assert 0 <= label[0] < label[2] <= 640 and 0 <= label[1] < label[3] <= 640


def test_help_is_there_without_waiting_for_torch():
    code = "import runpy, sys; sys.argv = ['predict.py', '--help']\n"
    code += f"try: runpy.run_path({str(ROOT / 'tools' / 'predict.py')!r}, run_name='__main__')\n"
    code += "except SystemExit: print(sorted({'torch', 'detectron2', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "--recursive" in done.stdout and done.stdout.rstrip().endswith("[]"), done.stderr


def test_threshold_outside_of_0_to_1_is_refused(run, pictures, capsys):
    with pytest.raises(SystemExit):
        run(pictures, options=["--confidence-threshold", "50"])
    assert "50.0 is not between 0 and 1" in capsys.readouterr().err


def test_a_config_of_the_repository_predicts_what_its_evaluation_would(tmp_path):
    name = "co_deformable_detr/co_deformable_detr_digits"
    cfg = model_zoo.get_config(name)
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    argv = ["--config-file", name, "--input", str(tmp_path / "a.png")]
    argv += ["--output", str(tmp_path / "out"), "--confidence-threshold", "0"]
    argv += [f"train.init_checkpoint={tmp_path}/model.pth", "train.device=cpu"]
    assert predict.main(argv) == 0

    example = instantiate(cfg.dataloader.test.mapper)({"file_name": str(tmp_path / "a.png")})
    with torch.no_grad():
        expected = model([example])[0]["instances"]
    found = _predictions(tmp_path / "out")
    assert len(found["annotations"]) == len(expected) > 0
    assert [c["name"] for c in found["categories"]] == [str(digit) for digit in range(10)]
    corners = expected.pred_boxes.tensor.numpy()
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    assert np.allclose([a["bbox"] for a in found["annotations"]], boxes, atol=0.01)
    assert [a["category_id"] - 1 for a in found["annotations"]] == expected.pred_classes.tolist()
    scores = [a["score"] for a in found["annotations"]]
    assert np.allclose(scores, expected.scores.numpy(), atol=1e-4)


def test_masks_are_drawn_and_written():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 10:20, 30:50] = True
    instances = Instances(
        (40, 60),
        pred_boxes=Boxes([[30.0, 10.0, 50.0, 20.0]]),
        scores=torch.tensor([0.9]),
        pred_classes=torch.tensor([0]),
        pred_masks=masks,
    )
    drawn = draw(image, instances, ["leaf"])
    factor = len(drawn) // 40
    inside = drawn[int(15.5 * factor), int(48.5 * factor)]
    outside = drawn[int(30.5 * factor), int(10.5 * factor)]
    assert inside.any() and not outside.any()

    (annotation,) = to_annotations(instances, 7, [{"id": 3, "name": "leaf"}])
    assert annotation["area"] == 200
    assert json.loads(json.dumps(annotation)) == annotation
    found = mask_util.decode(annotation["segmentation"])
    assert np.array_equal(found, masks[0].numpy())
