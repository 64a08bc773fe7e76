"""tools/predict.py from files on disk to pictures and annotations, with a detector made for it."""

import importlib.util
import json
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

from co_detr import model_zoo
from co_detr.checkpoint.matching import UnfittingCheckpointError

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
        return predict.main(argv), tmp_path / "out"

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
        _, out = run(pictures, options=["--confidence-threshold", threshold])
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
    monkeypatch.setattr(predict.MetadataCatalog, "get", lambda name: metadata)
    cfg = OmegaConf.create({"model": {"num_classes": 2}, "dataloader": {}})
    OmegaConf.update(cfg, "dataloader.test.dataset.names", "animals")
    assert [c["name"] for c in predict.load_categories(cfg)] == ["cat", "dog"]
    cfg.model.num_classes = 3
    assert [c["name"] for c in predict.load_categories(cfg)] == ["class 0", "class 1", "class 2"]


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
    assert predict.draw(np.zeros((*size, 3), np.uint8), nothing, ["a"]).shape[:2] == drawn


def test_broken_pictures_are_counted_and_left_out(run, pictures, capsys):
    (pictures / "c.png").write_bytes(b"no picture")
    code, out = run(pictures)
    assert code == 0
    assert len(_predictions(out)["images"]) == 2
    assert "1 could not be read" in capsys.readouterr().out


def test_nothing_readable_is_a_failure(run, tmp_path):
    (tmp_path / "c.png").write_bytes(b"no picture")
    assert run(tmp_path / "c.png")[0] == 1


def test_weights_are_required(run, pictures):
    with pytest.raises(ValueError, match="train.init_checkpoint="):
        run(pictures, weights="train.device=cpu")


def test_files_folders_and_patterns_are_found_once(pictures, tmp_path):
    (pictures / "notes.txt").touch()
    both = [pictures / "a.png", pictures / "b.jpg"]
    assert predict.find_images([str(pictures)]) == both
    assert predict.find_images([str(pictures / "*.jpg"), str(pictures)]) == both[::-1]
    for nothing in (str(tmp_path), str(pictures / "*.gif"), "train.init_checkpoint=x"):
        with pytest.raises(FileNotFoundError, match=nothing.replace("*", r"\*")):
            predict.find_images([nothing])


def test_pictures_of_one_name_do_not_overwrite_each_other(run, pictures, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    (other / "a.png").write_bytes((pictures / "a.png").read_bytes())
    _, out = run(pictures / "a.png", other)
    assert (out / "a.png").is_file() and (out / "a_2.png").is_file()


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
    drawn = predict.draw(image, instances, ["leaf"])
    factor = len(drawn) // 40
    inside = drawn[int(15.5 * factor), int(48.5 * factor)]
    outside = drawn[int(30.5 * factor), int(10.5 * factor)]
    assert inside.any() and not outside.any()

    (annotation,) = predict.to_annotations(instances, 7, [{"id": 3, "name": "leaf"}])
    assert annotation["area"] == 200
    assert json.loads(json.dumps(annotation)) == annotation
    found = mask_util.decode(annotation["segmentation"])
    assert np.array_equal(found, masks[0].numpy())
