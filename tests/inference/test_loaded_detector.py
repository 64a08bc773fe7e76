"""A detector from its checkpoint: pictures of six kinds, alone and in batches."""

import inspect
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image
from trained import CATEGORIES, NAME, trained

import co_detr
from co_detr import load_detector, model_zoo
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.data import UnreadablePicture
from co_detr.engine.checkpoint import WholeFileCheckpointer
from co_detr.inference.detector import Detector
from co_detr.inference.loading import find_config
from co_detr.inference.predictor import build_predictor, known_categories


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"), resize=(96, 160))


@pytest.fixture(scope="module")
def detector(path):
    return load_detector(path, device="cpu")


def picture(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_same(found, expected, atol=1e-4):
    assert found.image_size == expected.image_size
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.scores, expected.scores, atol=atol, rtol=0)
    boxes = found.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(*boxes, atol=atol, rtol=0)


def test_a_checkpoint_is_enough(path, detector):
    assert detector.class_names == [f"digit {i}" for i in range(10)]
    assert detector.categories == CATEGORIES
    assert (detector.min_size, detector.max_size) == (96, 160)
    assert detector.device == torch.device("cpu") and not detector.model.training
    stored = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(t, stored[name]) for name, t in detector.model.state_dict().items())


def test_it_finds_what_the_predictor_of_detectron2_finds(path, detector):
    cfg, _ = find_config(str(path), overrides=["train.device=cpu"])
    image = picture()
    expected = build_predictor(cfg)(image[:, :, ::-1])["instances"]
    found = detector(image, threshold=0)
    assert_same(found, expected, atol=1e-6)
    assert found.image_size == (60, 80) and len(found) == 40
    # spread over the picture, not over the 96x128 pixels that the model saw
    assert 20 < found.pred_boxes.tensor[:, 2].max() <= 80


def test_pictures_of_six_kinds(detector, tmp_path):
    image = picture()
    for name in ("b.png", "a.png"):
        Image.fromarray(image).save(tmp_path / name)
    expected = detector(image, threshold=0)
    assert_same(detector(str(tmp_path / "a.png"), threshold=0), expected, atol=0)
    assert_same(detector(tmp_path / "a.png", threshold=0), expected, atol=0)
    assert_same(detector(Image.fromarray(image), threshold=0), expected, atol=0)
    several = detector([image, tmp_path / "a.png", Image.open(tmp_path / "b.png")], threshold=0)
    assert isinstance(several, list) and len(several) == 3
    for found in several:
        assert_same(found, expected)
    folder = detector(str(tmp_path), threshold=0)
    assert inspect.isgenerator(folder)
    found = dict(folder)
    assert [p.name for p in found] == ["a.png", "b.png"]
    for instances in found.values():
        assert_same(instances, expected)
    assert detector([]) == [] and detector((image,))[0].image_size == (60, 80)


def test_pillow_and_files_are_taken_upright(detector, tmp_path):
    image = picture(40, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.rot90(image)).save(tmp_path / "a.png", exif=exif)
    expected = detector(image, threshold=0)
    assert_same(detector(tmp_path / "a.png", threshold=0), expected, atol=0)
    assert_same(detector(Image.open(tmp_path / "a.png"), threshold=0), expected, atol=0)
    gray = Image.fromarray(image).convert("L")
    alike = np.repeat(np.asarray(gray)[:, :, None], 3, axis=2)
    assert_same(detector(gray, threshold=0), detector(alike, threshold=0), atol=0)


def test_the_threshold_is_inclusive(detector):
    every = detector(picture(), threshold=0)
    middle = every.scores[len(every) // 2].item()
    assert len(detector(picture(), threshold=middle)) == int((every.scores >= middle).sum())
    assert len(detector(picture(), threshold=1)) == int((every.scores == 1).sum())
    assert len(detector(picture(), threshold=np.float32(0))) == len(every)


@pytest.mark.parametrize("variant", ["masked", "unmasked", "canvas", "dino", "masks"])
def test_a_batch_finds_what_single_pictures_do(variant, tmp_path, monkeypatch):
    name = {"dino": "co_dino/co_dino_digits"}.get(variant, NAME)
    if variant == "masks":
        name = f"{NAME}_mask_rcnn"
    changes = {"unmasked": {"mask_padding": False}}.get(variant, {})
    if variant == "canvas":
        changes = {"mask_padding": False, "canvas": 128}
    detector = load_detector(trained(tmp_path, name, **changes), device="cpu", batch_size=3)
    sizes = [(60, 80), (33, 90), (60, 80), (80, 60), (60, 80), (60, 80), (1, 70), (57, 75)]
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    expected = [detector(image, threshold=0) for image in images]
    batches = []
    detector.model.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    for found, single in zip(detector.predict(images), expected, strict=True):
        assert_same(found, single)
    assert max(batches) == 3 and len(batches) < len(images)
    if variant == "canvas":  # which makes all of one size
        assert batches == [3, 3, 2]
    batches.clear()
    for found, single in zip(detector.stream(iter(images), batch_size=2), expected, strict=True):
        assert_same(found, single)
    assert max(batches) <= 2


def test_a_stream_reads_no_further_than_a_batch(detector):
    read = []

    def frames():
        for number in range(9):
            read.append(number)
            yield picture(seed=number)

    stream = detector.stream(frames(), batch_size=2)
    next(stream)
    assert read == [0, 1]
    next(stream), next(stream)
    assert read == [0, 1, 2, 3]


def test_a_folder_is_read_as_it_goes_and_without_what_is_broken(detector, tmp_path, caplog):
    for number in range(6):
        Image.fromarray(picture(seed=number)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").touch()
    found = detector(tmp_path, threshold=0, batch_size=1)
    first, _ = next(found)
    (tmp_path / "5.png").unlink()  # beyond four batches of one
    with caplog.at_level(logging.WARNING):
        rest = [path.name for path, _ in found]
    assert [first.name, *rest] == ["0.png", "1.png", "3.png", "4.png"]
    assert "left out: unreadable" in caplog.text and "5.png" in caplog.text
    with pytest.raises(FileNotFoundError, match="no pictures in the folder"):
        (tmp_path / "empty").mkdir()
        detector(tmp_path / "empty")


@pytest.mark.parametrize(
    "source, error, match",
    [
        ("absent.png", UnreadablePicture, "absent.png: there is no such file"),
        (3, TypeError, "a int is no picture: pass a path"),
        (None, TypeError, "a NoneType is no picture"),
        ([["a.png"]], TypeError, "a list is no picture"),
        (torch.zeros(3, 8, 8), TypeError, r"tensor.permute\(1, 2, 0\)"),
        (np.zeros((8, 8), np.uint8), ValueError, r"RGB.*repeat the channel: np\.stack"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, "leave the alpha channel out"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, "the channels go last"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "pass a list of pictures"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "it is empty"),
        (np.full((8, 8, 3), 0.5), ValueError, "multiply by 255"),
    ],
)
def test_what_is_no_picture_is_named_with_the_remedy(detector, source, error, match):
    with pytest.raises(error, match=match):
        detector(source)


@pytest.mark.parametrize("threshold", ["a", None, 7, -0.1, float("nan")])
def test_a_threshold_is_a_score(detector, threshold, tmp_path):
    for source in (picture(), [], tmp_path):
        with pytest.raises(ValueError, match=rf"threshold={threshold!r} must be a number from 0"):
            detector(source, threshold=threshold)
    with pytest.raises(ValueError, match="threshold="):
        detector.predict([picture()], threshold)


def test_a_batch_has_a_picture_at_least(detector):
    for size in (0, "a", 1.5):
        with pytest.raises(ValueError, match=f"batch_size={size!r} must be at least 1, a whole"):
            detector([picture()], batch_size=size)


def test_a_checkpoint_without_a_config_needs_one(tmp_path):
    path = trained(tmp_path, card=False)
    with pytest.raises(ValueError, match=r"model\.pth carries none.*config_file=.*--config-file"):
        load_detector(path)
    found = [
        load_detector(path, config_file=NAME, device="cpu"),
        load_detector(NAME, weights=path, device="cpu"),
        load_detector(model_zoo.get_config_file(NAME), weights=path, device="cpu"),
    ]
    image = picture()
    for detector in found:
        assert (detector.min_size, len(detector.class_names)) == (0, 10)
        assert_same(detector(image, threshold=0), found[0](image, threshold=0), atol=0)


def test_configs_and_weights_are_told_apart(path):
    for config in (NAME, "birds.py"):
        with pytest.raises(ValueError, match="is a config: add weights="):
            load_detector(config)
    with pytest.raises(ValueError, match="there are two configs"):
        load_detector(NAME, weights=path, config_file=NAME)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*absent.pth"):
        load_detector("absent.pth")
    with pytest.raises(FileNotFoundError, match="no model 'co_dino/absent'"):
        load_detector("co_dino/absent", weights=path)


def test_the_config_in_a_checkpoint_is_the_remedy_for_a_wrong_one(path):
    with pytest.raises(UnfittingCheckpointError, match="brings a config along: leave .*dino"):
        load_detector(path, config_file="co_dino/co_dino_digits", device="cpu")


def test_the_config_in_a_checkpoint_can_be_changed(path):
    detector = load_detector(path, device="cpu", overrides=["model.postprocess.max_detections=5"])
    assert len(detector(picture(), threshold=0)) == 5


def test_names_without_a_card_are_those_that_weights_bring(tmp_path):
    model = instantiate(model_zoo.get_config(NAME).model)
    model.class_names = tuple("abcdefghij")
    WholeFileCheckpointer(model, str(tmp_path)).save("model")
    cfg, checkpoint = find_config(str(tmp_path / "model.pth"), NAME, ["train.device=cpu"])
    cfg.dataloader.test.dataset.names = cfg.dataloader.train.dataset.names = "unknown"
    categories, named = known_categories(cfg, checkpoint)
    assert named and [c["name"] for c in categories] == list("abcdefghij")


def test_models_that_want_bgr_get_it(detector):
    swapped = Detector(detector.model, CATEGORIES, min_size=96, max_size=160, image_format="BGR")
    image = picture()
    expected = detector(image, threshold=0)
    assert_same(swapped(image[:, :, ::-1].copy(), threshold=0), expected, atol=0)


def test_supervision_reads_what_it_finds(tmp_path):
    supervision = pytest.importorskip("supervision")
    detector = load_detector(trained(tmp_path, f"{NAME}_mask_rcnn"), device="cpu")
    instances = detector(picture(), threshold=0)
    detections = supervision.Detections.from_detectron2({"instances": instances})
    np.testing.assert_array_equal(detections.xyxy, instances.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(detections.confidence, instances.scores.numpy())
    np.testing.assert_array_equal(detections.class_id, instances.pred_classes.numpy())
    if instances.has("pred_masks"):
        assert detections.mask.shape == (len(instances), 60, 80)


def test_importing_the_package_stays_cheap():
    code = "import sys, co_detr; assert not {'torch', 'numpy', 'detectron2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'load_detectors'"):
        co_detr.load_detectors  # noqa: B018
