"""`hotcoco` in the place of `pycocotools` and `lvis`: all precisions and recalls are equal."""

import contextlib
import copy
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pycocotools.cocoeval
import pytest
from evaluation_problems import problem, without
from pycocotools.coco import COCO

from co_detr.evaluation import coco_api
from co_detr.evaluation.lvis_api import LVIS, LVISEval, LVISResults, instead_of_lvis

# results of the package `lvis` 0.5.3 on the same problems, written by
# `PYTHONPATH=tests python tests/evaluation/test_equality.py` in an environment that has it
LVIS_RESULTS = Path(__file__).parents[1] / "data" / "lvis_results.json"
OTHER_AREA = {"bbox": "segmentation", "segm": "bbox"}  # not to take the area of


def with_pycocotools(content, detections, task, limits):
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    with contextlib.redirect_stdout(None):
        truth.createIndex()
        found = truth.loadRes(without(detections, OTHER_AREA[task]))
        run = pycocotools.cocoeval.COCOeval(truth, found, task)
        run.params.maxDets = limits
        run.evaluate()
        run.accumulate()
    return truth, found, run


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_coco_equals_pycocotools(seed, task):
    content, detections = problem(seed)
    limits = [1, 10, 100] if seed % 3 else [1, 2, 5]
    truth, found, expected = with_pycocotools(content, detections, task, limits)
    for given in (found, without(detections, OTHER_AREA[task])):
        run = coco_api.COCOeval(truth, given, task)
        run.params.maxDets = limits
        run.evaluate()
        run.accumulate()
        for key in ("precision", "recall", "scores"):
            np.testing.assert_array_equal(run.eval[key], expected.eval[key])
        if limits[-1] == 100:
            with contextlib.redirect_stdout(None):
                expected.summarize()
                run.summarize()
            np.testing.assert_array_equal(run.stats, expected.stats)


def test_detections_on_unknown_images_are_refused():
    content, detections = problem(0)
    truth, _, _ = with_pycocotools(content, detections, "bbox", [1, 10, 100])
    stray = [{**detections[0], "image_id": 4321}]
    with pytest.raises(AssertionError, match="4321"):
        coco_api.COCOeval(truth, stray, "bbox")


def test_upstreams_evaluators_of_coco_are_replaced_while_they_run():
    module = ModuleType("like_detectron2s")
    module.COCOeval, module.COCOeval_opt = object(), object()
    before = vars(module).copy()
    with coco_api.used_in(module):
        assert module.COCOeval is module.COCOeval_opt is coco_api.COCOeval
    assert vars(module) == before


# ---------------------------------------------------------------------------------- LVIS


def lvis_results(api, seed, task, limit, folder):
    """By the calls that detectron2 makes."""
    content, detections = problem(seed, lvis=True)
    path = folder / f"{seed}.json"
    path.write_text(json.dumps(content))
    truth = api.LVIS(str(path))
    found = api.LVISResults(truth, without(detections, OTHER_AREA[task]), max_dets=limit)
    run = api.LVISEval(truth, found, task)
    run.run()
    run.print_results()
    return {k: v for k, v in run.get_results().items() if "AP" in k}


@pytest.mark.parametrize("case", json.loads(LVIS_RESULTS.read_text()), ids=lambda c: str(c[:3]))
def test_lvis_equals_the_package(case, tmp_path):
    seed, task, limit, expected = case
    with instead_of_lvis():
        import lvis

        assert (lvis.LVIS, lvis.LVISEval, lvis.LVISResults) == (LVIS, LVISEval, LVISResults)
        assert lvis_results(lvis, seed, task, limit, tmp_path) == expected


def write_lvis_results(folder, seeds):
    import lvis

    np.float = float
    cases = [(s, t, limit) for s in seeds for t in OTHER_AREA for limit in (300, 5, 1000)]
    results = [[*case, lvis_results(lvis, *case, folder)] for case in cases]
    lines = ",\n".join(json.dumps(result) for result in results)
    LVIS_RESULTS.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        write_lvis_results(Path(made), [*range(8), 76])  # the last: more than 300 of a class
