"""The figures from small untrained models on two pictures of different sizes, by the command."""

import argparse
import csv

import pytest
import tiny_dataset
import torch
from detectron2.config import instantiate

from co_detr import model_zoo
from co_detr.analysis.command import build_parser, main
from co_detr.analysis.examples import annotated_loader
from co_detr.analysis.models import ModelFiles, load_model, models_of
from co_detr.analysis.positives import count_positives
from co_detr.analysis.query_positions import locate_queries
from co_detr.analysis.score_maps import score_images
from co_detr.arguments import parse_arguments

DEFORMABLE = "co_deformable_detr/co_deformable_detr_digits"
DENSE = "dab_detr/co_dab_detr_digits"
LABELS = {DEFORMABLE: "K = 2", DENSE: "DAB"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of weights by config."""
    files = {}
    for name in (DEFORMABLE, DENSE):
        torch.manual_seed(0)
        model = instantiate(model_zoo.get_config(name).model)
        files[name] = tmp_path_factory.mktemp("weights") / "model.pth"
        torch.save({"model": model.state_dict()}, files[name])
    return files


@pytest.fixture
def overrides(tmp_path):
    """Read two pictures with an object each, in one batch, on the CPU."""
    name = tiny_dataset.register(tmp_path / "pictures", 10, lvis=False)
    return [
        f"dataloader.test.dataset.names={name}",
        "dataloader.test.num_workers=0",
        "+dataloader.test.batch_size=2",
        "train.device=cpu",
    ]


def table(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def draw(tmp_path, weights, overrides, *words, configs=tuple(LABELS)):
    """Run the command on these models; returns the output folder."""
    models = [f"--model={LABELS[config]}={config}:{weights[config]}" for config in configs]
    main([*words, *models, "--output", str(tmp_path / "out"), *overrides])
    return tmp_path / "out"


def test_discriminability(tmp_path, weights, overrides):
    out = draw(tmp_path, weights, overrides, "figure2", "--format", "svg")
    rows = table(out / "discriminability.csv")
    curves = {(row["score"], row["model"]): row for row in rows}  # the last point of each
    scores = ("encoder features", "decoder cross-attention")
    assert set(curves) == {(score, model) for score in scores for model in ("K = 2", "DAB")}
    assert all((row["IoB"], row["IoF"]) == ("0", "0") for row in curves.values())
    assert "<svg" in (out / "discriminability.svg").read_text()


def test_score_maps(tmp_path, weights, overrides):
    out = draw(tmp_path, weights, overrides, "score-maps")
    rows = [(row["image"], row["model"]) for row in table(out / "score_maps.csv")]
    assert rows == [("1", "K = 2"), ("2", "K = 2"), ("1", "DAB"), ("2", "DAB")]
    assert (out / "score_maps.png").read_bytes().startswith(b"\x89PNG")


def test_attention_maps(tmp_path, weights, overrides):
    words = "figure3", "--score", "decoder", "--image-ids", "2"
    out = draw(tmp_path, weights, overrides, *words, configs=[DENSE])
    assert [row["image"] for row in table(out / "attention_maps.csv")] == ["2"]


def test_query_positions(tmp_path, weights, overrides):
    out = draw(tmp_path, weights, overrides, "figure7", "--pictures", "1")
    original = [row for row in table(out / "query_positions.csv") if row["query"] == "original"]
    assert [(row["model"], row["image"]) for row in original] == [("K = 2", "1"), ("DAB", "1")]
    heads = [(row["model"], row["head"]) for row in table(out / "query_distances.csv")]
    assert heads == [(model, head) for model in ("K = 2", "DAB") for head in ("rcnn", "atss")]


def test_positives(tmp_path, weights, overrides):
    out = draw(tmp_path, weights, overrides, "positives", configs=[DEFORMABLE])
    for row in table(out / "positives.csv"):
        assert row["objects"] == "2"
        assert float(row["positives per object"]) == int(row["positives"]) / 2 > 0


def test_every_image_has_its_own_size_and_objects(weights, overrides):
    """In a batch whose first image has an object and whose second one has two, then none."""
    loaded = load_model(ModelFiles("", DEFORMABLE, weights[DEFORMABLE]), overrides)
    ((wide, high),) = annotated_loader(loaded.cfg)
    high["instances"].gt_boxes.tensor[:] = torch.tensor([1.0, 40.0, 2.0, 41.0])  # one pixel
    twice = high["instances"].cat([high["instances"]] * 2)
    twice.gt_boxes.tensor[1] = torch.tensor([5.0, 5.0, 35.0, 35.0])

    (_, first), (_, second) = locate_queries(loaded.model, [[wide, high | {"instances": twice}]])
    assert first.original.objects.tolist() == [0]
    assert sorted(second.original.objects.tolist()) == [0, 1]
    for found, center, number in (
        (first, (20 / 60, 20 / 40), 0),
        (second, (20 / 40, 20 / 60), 1),
    ):
        points = found.customized["rcnn"].of(number)  # an object is a proposal of itself
        assert (points - torch.tensor(center)).norm(dim=1).min() < 1e-5

    nothing = high | {"instances": high["instances"][:0]}
    with_object, without = score_images(loaded.model, [[wide, nothing]])
    assert with_object.encoder.shape == with_object.decoder.shape == (40, 60)
    assert without.encoder.shape == (60, 40) and without.decoder is None


def arguments(*words):
    return parse_arguments(build_parser(), words)


def test_labels_may_be_equations(weights):
    args = arguments(
        "figure2", "--model", f"K=2={DEFORMABLE}:{weights[DEFORMABLE]}", "train.device=cpu"
    )
    assert args.opts == ["train.device=cpu"]
    (files,) = models_of(args)
    assert (files.label, files.weights) == ("K=2", weights[DEFORMABLE])
    assert files.config_file.endswith(f"{DEFORMABLE}.py")


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name a model"),
        (["--config-file", DEFORMABLE], "name a model"),
        (["--config-file", DEFORMABLE, "--weights", "none.pth"], "no weights none.pth"),
        (["--model", "co_dino.py"], "'co_dino.py' is not of the form LABEL=CONFIG:WEIGHTS"),
        (["--model", f"A={DEFORMABLE}:w", "--weights", "w"], "not both"),
        (["--model", f"A={DEFORMABLE}:w", "--model", f"A={DENSE}:w"], "two models are called 'A'"),
        (["--model", "A=co_dino/none:w"], "no model 'co_dino/none'"),
        (["--images", "0"], "0 is less than 1"),
    ],
)
def test_bad_command_lines(capsys, words, message):
    with pytest.raises(SystemExit):
        main(["positives", *words])
    assert message in capsys.readouterr().err


def test_a_model_without_heads_assigns_nothing(weights, overrides):
    loaded = load_model(ModelFiles("", DEFORMABLE, weights[DEFORMABLE]), overrides)
    loaded.model.aux_heads.clear()
    with pytest.raises(ValueError, match="the model has no auxiliary heads"):
        count_positives(loaded.model, annotated_loader(loaded.cfg))


def test_figures_are_of_our_models(weights):
    files = ModelFiles("", DEFORMABLE, weights[DEFORMABLE])
    with pytest.raises(TypeError, match=f"the model of {DEFORMABLE} is a Identity.*a CoDETR or"):
        load_model(files, ["model._target_=torch.nn.Identity", "train.device=cpu"])


def test_figures_go_by_name_and_by_number():
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert action.choices["figure3"] is action.choices["score-maps"]
