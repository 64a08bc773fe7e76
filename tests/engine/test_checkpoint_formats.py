"""Checkpoints in other formats than detectron2's own."""

import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from iopath.common.file_io import HTTPURLHandler
from safetensors.torch import save_file
from torch import nn

import co_detr
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.engine.checkpoint import WholeFileCheckpointer


def test_safetensors_are_loaded_by_name(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    WholeFileCheckpointer(target).load(str(path))
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, source.bias)


def test_layers_of_another_size_start_anew_and_are_named(tmp_path, monkeypatch):
    source, target = nn.Linear(3, 2), nn.Linear(3, 4)
    before = target.weight.clone()
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict() | {"bias": torch.full((4,), 7.0)}, path)
    checkpointer = WholeFileCheckpointer(target)
    lines = []
    monkeypatch.setattr(
        checkpointer.logger, "warning", lambda message, *args: lines.append(str(message))
    )
    checkpointer.load(str(path))
    assert torch.equal(target.weight, before)
    assert torch.equal(target.bias, torch.full((4,), 7.0))
    assert any("weight" in line and "(2, 3)" in line for line in lines)


@pytest.mark.skipif(
    not co_detr.detectron2_origin().startswith("embedded"), reason="message of the embedded one"
)
def test_weights_that_cannot_be_fetched_are_named_with_the_remedy(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", no_network)
    url = r"https://dl\.fbaipublicfiles\.com/detectron2/backbones/R-50\.pkl"
    with pytest.raises(ConnectionError, match=rf"R-50\.pkl .*\(no network\).*copy {url} here"):
        WholeFileCheckpointer(nn.Linear(3, 2)).load("detectron2://backbones/R-50.pkl")


def linear(class_names=None, outputs=3):
    model = nn.Linear(2, outputs)
    model.class_names = class_names
    return model


def test_checkpoints_carry_the_names_of_the_classes(tmp_path):
    WholeFileCheckpointer(linear(("cat", "dog", "owl")), str(tmp_path)).save("named")
    WholeFileCheckpointer(linear(), str(tmp_path)).save("nameless")
    assert torch.load(tmp_path / "named.pth")["class_names"] == ["cat", "dog", "owl"]
    assert torch.load(tmp_path / "nameless.pth").keys() == {"model"}
    # detectron2's own checkpointer reads it as before
    target = linear()
    DetectionCheckpointer(target).load(str(tmp_path / "named.pth"))
    assert torch.equal(target.weight, torch.load(tmp_path / "named.pth")["model"]["weight"])


def test_a_run_resumes_only_with_the_same_classes_and_shapes(tmp_path):
    def checkpointer(class_names, outputs=3):
        model = linear(class_names, outputs)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return WholeFileCheckpointer(model, str(tmp_path), optimizer=optimizer)

    saved = checkpointer(("cat", "dog", "owl"))
    saved.save("model_0000001", iteration=1)
    same = checkpointer(("cat", "dog", "owl"))
    assert same.resume_or_load("", resume=True)["iteration"] == 1
    assert torch.equal(same.model.weight, saved.model.weight)
    with pytest.raises(UnfittingCheckpointError, match="trained on the classes cat, dog, owl"):
        checkpointer(("dog", "cat", "owl")).resume_or_load("", resume=True)
    with pytest.raises(UnfittingCheckpointError, match=r"weight: file \(3, 2\), model \(4, 2\)"):
        checkpointer(None, outputs=4).resume_or_load("", resume=True)
    # a new run may start from it
    started = checkpointer(("dog", "cat", "owl"))
    started.resume_or_load(str(tmp_path / "model_0000001.pth"), resume=False)


def test_the_backbone_of_the_model_zoo_finds_its_place(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    weights = {"stem.weight": np.full((2, 3), 7, np.float32), "fc.weight": np.zeros((2, 2))}
    content = {"model": weights, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"stem": nn.Linear(3, 2, bias=False)})})
    WholeFileCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    assert model["backbone"]["stem"].weight.eq(7).all()
    assert "Loaded 1 of the model's 1 tensors" in caplog.text
