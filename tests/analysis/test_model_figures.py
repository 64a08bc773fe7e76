"""The commands of the figures of whole models and trainings, and their pictures."""

import csv

import pytest
import tiny_dataset
import torch
from detectron2.config import instantiate

from co_detr import model_zoo
from co_detr.analysis.command import main
from co_detr.analysis.instability import Change
from co_detr.analysis.plots.head_distances import draw_averages, draw_matrix
from co_detr.analysis.plots.instability import draw_instability

CONFIG = "co_deformable_detr/co_deformable_detr_digits"


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A folder with checkpoints of an untrained model and of another one."""
    folder = tmp_path_factory.mktemp("training")
    for number, seed in ((49, 0), (99, 1), (149, 1)):
        torch.manual_seed(seed)
        state = instantiate(model_zoo.get_config(CONFIG).model).state_dict()
        torch.save({"model": state}, folder / f"model_{number:07}.pth")
    (folder / "model_final.pth").touch()  # not to be read
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    name = tiny_dataset.register(tmp_path_factory.mktemp("data") / "pictures", 10, lvis=False)
    return [f"dataloader.test.dataset.names={name}", "dataloader.test.num_workers=0"]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_instability_of_a_training(training, data, tmp_path):
    main(["figure5", "--run", f"K=2={CONFIG}:{training}", "--output", str(tmp_path), *data])
    first, second = rows(tmp_path / "instability.csv")
    assert [first["run"], first["compared with"], first["iteration"]] == ["K=2", "50", "100"]
    # Each of the two pictures has one object, which changes its query or does not.
    assert first["instability"] in ("0", "1", "2")
    assert second["instability"] == second["standard error"] == "0"  # the same weights
    assert (tmp_path / "instability.png").stat().st_size > 0


@pytest.mark.parametrize("every, left", [(2, 1), (4, 0)])
def test_a_change_takes_two_checkpoints(training, data, tmp_path, every, left):
    words = ["instability", "--run", f"a={CONFIG}:{training}", "--every", str(every)]
    with pytest.raises(FileNotFoundError, match=f"has 3 checkpoints.*of which {left} .*period"):
        main([*words, "--output", str(tmp_path), *data])


@pytest.mark.parametrize(
    "runs, message",
    [
        (["a"], "not of the form LABEL=CONFIG:FOLDER"),
        ([f"a={CONFIG}:nowhere"], "no folder nowhere"),
        ([f"a={CONFIG}:."] * 2, "two trainings are called 'a'"),
    ],
)
def test_trainings_that_are_not_there(runs, message, capsys):
    words = [word for run in runs for word in ("--run", run)]
    with pytest.raises(SystemExit):
        main(["instability", *words])
    assert message in capsys.readouterr().err


def test_distances_of_heads(training, data, tmp_path):
    weights = training / "model_0000099.pth"
    models = ["--model", f"K = 2={CONFIG}:{weights}", "--output", str(tmp_path)]
    main(["figure8", *models, "--format", "svg", *data])
    pairs = rows(tmp_path / "head-distances-K-2.csv")
    distances = {(row["head"], row["other head"]): float(row["distance"]) for row in pairs}
    assert len(distances) == 6
    averages = rows(tmp_path / "head-distances.csv")
    assert [(row["K"], row["head"]) for row in averages] == [("2", "rcnn"), ("2", "atss")]
    between = (distances["rcnn", "atss"] + distances["atss", "rcnn"]) / 2
    assert [float(row["average distance"]) for row in averages] == pytest.approx([between] * 2)
    for name in ("head-distances-K-2", "head-distances"):
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_curves_of_trainings():
    curve = [Change(50, 100, 3.0, 0.5), Change(100, 150, 1.0, 0.25)]
    (axes,) = draw_instability({"a": curve, "b": curve[:1]}, largest=6.0).axes
    first, second, bound = axes.lines
    assert first.get_xydata().tolist() == [[100, 3], [150, 1]]
    assert second.get_xydata().tolist() == [[100, 3]]
    assert list(bound.get_ydata()) == [6, 6]
    band = axes.collections[0].get_paths()[0].vertices
    assert {(100, 2.5), (100, 3.5), (150, 0.75), (150, 1.25)} <= set(map(tuple, band))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_matrix_has_the_first_head_of_a_divergence_as_row():
    figure = draw_matrix(["DETR", "atss"], torch.tensor([[0, 1.5], [0.25, 0]]), "title")
    axes = figure.axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "0.00", (1, 0): "1.50", (0, 1): "0.25", (1, 1): "0.00"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["DETR", "atss"]


def test_bars_are_means_over_heads():
    (axes,) = draw_averages({"K = 1": {"atss": 2.0}, "K = 3": {"a": 1.0, "b": 3.0, "c": 5.0}}).axes
    assert [bar.get_width() for bar in axes.patches] == [2, 3]
    assert [list(line.get_xdata()) for line in axes.lines] == [[2.0], [1.0, 3.0, 5.0]]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first model on top
