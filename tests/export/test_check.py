"""What counts as the same detections."""

import pytest
import torch
from detectors import MODELS, build
from detectron2.structures import Boxes, Instances
from export_fixtures import SIZE, tiny_model

from co_detr.export import check
from co_detr.export.check import ExportDiffersError, compare, expected_detections

BOXES = [[0, 0, 10, 10], [5, 5, 20, 30], [40, 40, 60, 50]]


def detections(boxes=BOXES, scores=(0.9, 0.5, 0.1), classes=(0, 1, 2)):
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def test_the_largest_differences_of_all_pictures_are_told():
    moved = [[0.25, 0, 10, 10], *BOXES[1:]]
    difference = compare(
        [detections(), detections(moved, scores=(0.9, 0.5, 0.100008))],
        [detections(), detections()],
        tolerance=0.5,
    )
    assert (difference.boxes, difference.exchanged, difference.count) == (0.25, 0, 6)
    assert difference.scores == pytest.approx(8e-6, rel=0.01)


def test_a_box_beyond_the_tolerance_is_named_with_its_distance():
    moved = [BOXES[0], [5, 5, 20, 30.25], BOXES[2]]
    with pytest.raises(ExportDiffersError, match=r"1 of 3.*class 1 with score 0.5.*0.25 pixels"):
        compare([detections(moved)], [detections()], tolerance=0.2)


def test_only_equal_scores_may_change_places():
    order = [1, 0, 2]
    boxes, classes = [BOXES[i] for i in order], [[0, 1, 2][i] for i in order]
    tied = detections(scores=(0.5, 0.5, 0.1))
    difference = compare([detections(boxes, (0.5, 0.5, 0.1), classes)], [tied], tolerance=1e-3)
    assert (difference.exchanged, difference.count) == (2, 3)
    with pytest.raises(ExportDiffersError, match="2 of 3"):
        compare([detections(boxes, (0.9, 0.5, 0.1), classes)], [detections()], tolerance=1e-3)


def test_another_class_or_score_is_another_detection():
    with pytest.raises(
        ExportDiffersError, match="class 0 .*, a class that the other does not find"
    ):
        compare([detections(classes=(3, 1, 2))[1:]], [detections()], tolerance=1e-3)
    with pytest.raises(ExportDiffersError, match="its score 0.001"):
        compare([detections(scores=(0.901, 0.5, 0.1))], [detections()], tolerance=1e-3)


def test_the_last_place_may_go_to_either_of_two_equals():
    other = detections([*BOXES[:2], [70, 70, 80, 80]], classes=(0, 1, 4))
    assert compare([other], [detections()], tolerance=1e-3).count == 2
    with pytest.raises(ExportDiffersError):  # but not one of the first
        compare([detections([[1, 1, 9, 9], *BOXES[1:]])], [detections()], tolerance=1e-3)


def test_equals_alone_prove_nothing():
    equal = detections(scores=(0.1, 0.1, 0.1))
    other = detections([[70, 70, 80, 80], [0, 0, 9, 9], BOXES[2]], (0.1, 0.1, 0.1))
    with pytest.raises(ExportDiffersError, match="2 of 3 detections have nearly the lowest score"):
        compare([other], [equal], tolerance=1e-3)


@pytest.mark.parametrize("found, expected, fits", [(0, 0, True), (0, 3, False), (3, 0, False)])
def test_without_detections(found, expected, fits):
    pair = [detections()[:found]], [detections()[:expected]]
    if fits:
        assert compare(*pair, tolerance=1e-3).count == 0
    else:
        with pytest.raises(ExportDiffersError):
            compare(*pair, tolerance=1e-3)


@pytest.fixture
def ranked(monkeypatch):
    """`expected_detections` of a Co-DINO for a picture, with its proposals in a given order."""
    model = tiny_model()
    picture = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(0))
    inputs = [{"image": picture.to(torch.uint8)}]
    logits = []
    ranked = model.proposals.ranked
    monkeypatch.setattr(
        model.proposals, "ranked", lambda *args: logits.append(args) or ranked(*args)
    )
    before = expected_detections(model, inputs, *SIZE)
    monkeypatch.undo()
    scores = logits[0][0].sigmoid()

    def run(ranking):
        return expected_detections(model, inputs, *SIZE, ranking)

    return before, scores.topk(30, dim=1).indices, scores, run


def test_the_model_follows_a_ranking_that_differs_among_equal_scores_only(ranked, monkeypatch):
    before, index, scores, run = ranked
    assert compare(run(index), before, tolerance=0).boxes == 0
    exchanged = index.clone()
    exchanged[0, [4, 5]] = index[0, [5, 4]]
    gap = (scores[0, index[0, 4]] - scores[0, index[0, 5]]).item()
    with pytest.raises(ExportDiffersError, match=f"ranks proposals otherwise: .*{gap:.2g} off"):
        run(exchanged)
    monkeypatch.setattr(check, "RANK_TIE", 2 * gap)
    assert compare(run(index), before, tolerance=0).boxes == 0  # nothing is left behind
    moved = run(exchanged)[0].scores.sort().values - before[0].scores.sort().values
    assert moved.abs().max() > 1e-4  # other queries


def test_a_proposal_that_comes_twice_is_an_error(ranked, monkeypatch):
    _, index, _, run = ranked
    monkeypatch.setattr(check, "RANK_TIE", 1.0)
    with pytest.raises(ExportDiffersError, match="30 proposals, or fewer that differ"):
        run(torch.cat([index[:, :29], index[:, :1]], dim=1))
    with pytest.raises(ExportDiffersError, match="the file has 29 proposals.*the model has 30"):
        run(index[:, :29])


def test_a_model_of_one_stage_follows_no_ranking():
    inputs = [{"image": torch.zeros(3, *SIZE, dtype=torch.uint8)}]
    with pytest.raises(ExportDiffersError, match="of which the model has none"):
        expected_detections(build(MODELS["one-stage"]()), inputs, *SIZE, torch.zeros(1, 30).long())
