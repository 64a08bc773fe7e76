"""Statistics by hand, and what is read from the files of a run."""

import json
import math

import pytest

from co_detr.ablation.results import Estimate, difference, estimate, result_of, verdict
from co_detr.ablation.tables import Evaluation


def test_mean_and_standard_error():
    # deviations -3, -1, 1, 3: variance 20 / 3; its root over 2
    assert estimate([10.0, 12.0, 14.0, 16.0]) == pytest.approx((13.0, math.sqrt(20 / 3) / 2))
    assert estimate([1.0, 2.0]) == pytest.approx((1.5, 0.5))


def test_one_value_has_no_standard_error_and_none_no_mean():
    mean, error = estimate([3.0])
    assert mean == 3.0 and math.isnan(error)
    assert all(map(math.isnan, estimate([])))
    assert all(map(math.isnan, estimate([1.0, math.nan, 2.0])))  # COCO's AP of no object


def test_errors_of_a_difference_add_up_as_squares():
    assert difference(Estimate(10.0, 0.3), Estimate(8.0, 0.4)) == pytest.approx((2.0, 0.5))


@pytest.mark.parametrize(
    "found, expected",
    [
        ((2.0, 0.5), "higher"),
        ((-2.0, 0.5), "lower"),
        ((1.0, 0.5), "undecided"),  # two standard errors are not more than two
        ((-1.0, 0.5), "undecided"),
        ((0.0, 0.0), "undecided"),
        ((9.0, math.nan), "undecided"),  # one seed
    ],
)
def test_a_difference_within_two_standard_errors_is_undecided(found, expected):
    assert verdict(Estimate(*found)) == expected


@pytest.fixture
def run(make_run):
    run = make_run(iterations=6)
    run.folder.mkdir(parents=True)
    rows = [
        {"iteration": 0, "time": 9.0, "total_loss": 1.0},
        {"iteration": 1, "time": 0.2, "total_loss": 1.0, "bbox/AP": 1.0, "max_memory": 50.0},
        {"iteration": 3, "bbox/AP": 2.0},
        {"iteration": 3, "time": 0.4, "total_loss": 1.0, "bbox/AP": 3.0, "max_memory": 70.0},
        {"iteration": 5, "time": 0.3, "total_loss": 1.0, "max_memory": 60.0},
        {"iteration": 6, "bbox/AP": 4.0, "bbox/AP50": 8.0, "bbox/AP-3": 1.0},
    ]
    run.metrics.write_text("\n".join(map(json.dumps, rows)))
    run.weights.touch()
    return run


def test_the_result_is_that_of_the_last_evaluation(run):
    result = result_of(run, None)
    assert (result.metrics["AP"], result.metrics["AP50"]) == (4.0, 8.0)
    assert result.curve == {2: 1.0, 4: 3.0, 6: 4.0}  # of 4 what the resumed run found
    assert result.seconds == 0.3  # without the first
    assert result.memory == 70.0


def test_a_further_evaluation_has_its_own_result(run):
    evaluation = Evaluation("atss", ())
    assert result_of(run, evaluation) is None
    folder = run.folder / "evaluations" / "atss"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text('{"bbox/AP": 7.0, "bbox/APl": NaN}')
    metrics = result_of(run, evaluation).metrics
    assert metrics["AP"] == 7.0 and math.isnan(metrics["APl"])


def test_what_is_not_complete_has_no_result(run):
    run.weights.unlink()
    assert result_of(run, None) is None
