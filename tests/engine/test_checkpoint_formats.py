"""Checkpoints in other formats than detectron2's own."""

import pytest
import torch
from iopath.common.file_io import HTTPURLHandler
from safetensors.torch import save_file
from torch import nn

import co_detr
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
