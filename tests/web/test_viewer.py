"""What the page shows, without the page: branches, thresholds, and what is computed only once."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from lively import HEIGHT, WIDTH, lively_detector, save_picture
from trained import trained

from co_detr import load_detector
from co_detr.data import UnreadablePicture, read_picture
from co_detr.web.viewer import KEPT, LEAST_SCORE, Viewer

pytest.importorskip("supervision")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return lively_detector(tmp_path_factory.mktemp("viewer"))


@pytest.fixture
def viewer(detector):
    detector.model.eval_branch = "matching"
    return Viewer(detector)


@pytest.fixture
def runs(detector):
    """The images that go through the whole model."""
    seen = []
    hook = detector.model.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    yield seen
    hook.remove()


def test_the_threshold_moves_without_the_model(viewer, runs, tmp_path):
    path = save_picture(tmp_path / "a.png")
    everything = viewer.look(path, LEAST_SCORE)
    scores = everything.instances.scores
    assert len(scores) == everything.num_found > 3
    assert torch.equal(scores, scores.sort(descending=True).values) and scores[-1] >= LEAST_SCORE
    third = viewer.look(path, scores[2].item())
    assert torch.equal(third.instances.scores, scores[:3])  # inclusive
    assert third.num_found == len(scores) and third.seconds == everything.seconds
    nothing = viewer.look(path, 1)
    assert len(nothing.instances) == 0 and len(runs) == 1
    # three boxes are drawn where there was none
    assert (third.drawn != nothing.drawn).any()
    assert len(viewer.look(save_picture(tmp_path / "b.png", seed=1), 1).instances) == 0
    assert len(runs) == 2


def test_the_last_pictures_are_kept(viewer, runs, tmp_path):
    paths = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(KEPT + 1)]
    for path in paths:
        viewer.look(path, 0.5)
    viewer.look(paths[1], 0.5)
    assert len(runs) == KEPT + 1
    viewer.look(paths[0], 0.5)
    assert len(runs) == KEPT + 2


@pytest.mark.parametrize("branch", ["rcnn", "atss", "matching"])
def test_a_branch_is_that_of_the_model(viewer, branch, tmp_path):
    path = save_picture(tmp_path / "a.png")
    assert viewer.branches == ["matching", "rcnn", "atss"] and viewer.branch == "matching"
    found = viewer.look(path, LEAST_SCORE, branch).instances
    other = viewer.look(path, LEAST_SCORE, "").instances  # that of the config
    assert (len(found) == len(other) and torch.equal(found.scores, other.scores)) == (
        branch == "matching"
    )
    model = viewer.detector.model
    model.eval_branch = branch
    (expected,) = viewer.detector.predict([read_picture(path)], LEAST_SCORE)
    torch.testing.assert_close(found.scores, expected.scores.sort(descending=True).values)


def test_a_model_without_heads_has_one_branch(tmp_path):
    path = trained(tmp_path, "co_deformable_detr/co_deformable_detr_digits_k0")
    assert Viewer(load_detector(path, device="cpu")).branches == ["matching"]


def test_a_heat_map_is_computed_once_and_leaves_the_detections(viewer, tmp_path, monkeypatch):
    made = []

    def heat_map(detector, image, kind, branch):
        made.append((kind, branch))
        return np.linspace(0, 1, image[:, :, 0].size).reshape(image.shape[:2])

    monkeypatch.setattr("co_detr.web.viewer.heat_map", heat_map)
    path = save_picture(tmp_path / "a.png")
    plain = viewer.look(path, 0.5)
    warm = viewer.look(path, 0.5, heat="encoder")
    assert torch.equal(plain.instances.scores, warm.instances.scores)
    assert warm.drawn.shape == plain.drawn.shape and (warm.drawn != plain.drawn).mean() > 0.5
    viewer.look(path, 0.9, heat="encoder")
    viewer.look(path, 0.9, "atss", heat="branch")
    assert made == [("encoder", "matching"), ("branch", "atss")]


def test_pictures_are_upright_and_broken_files_named(viewer, tmp_path):
    path = save_picture(
        tmp_path / "a.png",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0" b"\0\x01\0\x06\0\0\0\0\0\0",
    )
    assert viewer.look(path, 0.5).instances.image_size == (WIDTH, HEIGHT)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(UnreadablePicture, match="b.png: no picture"):
        viewer.look(str(tmp_path / "b.png"), 0.5)


def test_rows_and_coco(viewer):
    instances = Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor([[1.04, 2, 11.26, 22]])),
        scores=torch.tensor([0.12345]),
        pred_classes=torch.tensor([3]),
    )
    assert viewer.rows(instances) == [["digit 3", 0.123, 1.0, 2.0, 11.3, 22.0]]
    coco = viewer.coco("/uploads/a b.png", instances)
    assert coco["images"] == [{"id": 1, "file_name": "a b.png", "height": HEIGHT, "width": WIDTH}]
    assert coco["categories"][3] == {"id": 30, "name": "digit 3"}
    (found,) = coco["annotations"]
    assert (found["id"], found["image_id"], found["category_id"]) == (1, 1, 30)
    assert found["bbox"] == [1.04, 2, 10.22, 20] and found["score"] == pytest.approx(0.12345)
