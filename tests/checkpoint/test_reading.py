"""Checkpoint files as people have them: formats, wrappers, and what is no checkpoint."""

import argparse
import gzip
import io
import pickle
import random
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import co_detr  # noqa: F401  makes detectron2 importable
from co_detr.checkpoint.reading import (
    DamagedCheckpointError,
    UnsafeCheckpointError,
    check_readable,
    read_checkpoint,
    read_tensors,
)
from co_detr.checkpoint.wrappers import under_names_of


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))


STATE = network().state_dict()
OTHER = {name: value + 1 for name, value in STATE.items()}


def named(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def averaged():
    model = AveragedModel(network())
    model.update_parameters(network())
    return model.state_dict()


WRAPPED = {
    "plain": STATE,
    "module": {"model": named("module.")},
    "compiled": {"model": named("_orig_mod.")},
    "compiled, then distributed": {"model": named("module._orig_mod.")},
    "distributed, then compiled": {"model": named("_orig_mod.module.")},
    "a compiled part": {"model": {n.replace("0.", "0._orig_mod."): t for n, t in STATE.items()}},
    "lightning": {"state_dict": named("model."), "pytorch-lightning_version": "2", "epoch": 3},
    "lightning with more": {
        "state_dict": named("model.") | named("ema.", OTHER) | {"criterion.weight": torch.ones(3)}
    },
    "student before teacher": {"state_dict": named("teacher.", OTHER) | named("student.")},
    "a name of one's own": {"state_dict": named("detector.net.")},
    "averages alone": {"ema": averaged(), "iteration": torch.tensor(3)},
    "averages two deep": {"ema": {"module": STATE, "updates": 7}},
    "averages beside": {"ema": OTHER, "model": STATE},
    "two keys deep": {"model": {"state_dict": named("module.")}},
    "a key of one's own": {"my_weights": STATE, "step": 5},
    "with arguments and arrays": {
        "model": STATE,
        "args": argparse.Namespace(lr=1e-4),
        "best": np.float64(0.3),
        "history": np.ones(3),
    },
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_looked_through(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    found = under_names_of(read_tensors(tmp_path / "file.pth"), network())
    for name, tensor in STATE.items():
        assert torch.equal(found[name], tensor), name


def test_a_part_of_a_model_gets_the_beginning_of_its_names(tmp_path):
    model = nn.ModuleDict({"backbone": network(), "head": nn.Linear(2, 1)})
    torch.save(STATE | {"fc.weight": torch.ones(1)}, tmp_path / "backbone.pth")
    found = under_names_of(read_tensors(tmp_path / "backbone.pth"), model)
    assert torch.equal(found["backbone.1.weight"], STATE["1.weight"])


def test_names_that_fit_are_left_alone():
    # "model." belongs to this model, and a part of it looks like the whole
    model = nn.ModuleDict({"model": network(), "0": nn.Linear(3, 2)})
    state = model.state_dict()
    assert under_names_of(state, model).keys() == state.keys()


def test_a_single_layer_is_not_found_by_chance_in_another_model():
    file = {f"layers.{i}.weight": torch.ones(2, 2) for i in range(8)}
    assert under_names_of(file, nn.Linear(2, 2)).keys() == file.keys()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors", ".pkl", ""])
def test_the_content_counts_not_the_suffix(tmp_path, suffix):
    torch.save(STATE, tmp_path / f"torch{suffix}")
    torch.save(STATE, tmp_path / f"legacy{suffix}", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / f"safe{suffix}")
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    zoo = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / f"arrays{suffix}").write_bytes(pickle.dumps(zoo, protocol=2))
    for name in ("torch", "legacy", "safe", "arrays"):
        path = tmp_path / f"{name}{suffix}"
        check_readable(path)
        found = read_tensors(path)
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[key], STATE[key]) for key in STATE), name


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "not weights")
    return file.getvalue()


LARGE = {"weight": torch.zeros(300, 300)}
LEGACY = saved(LARGE, _use_new_zipfile_serialization=False)
DAMAGED = {
    "empty": (b"", "it is empty"),
    "never written": (bytes(5000), "only zeros"),
    "cut off": (saved(LARGE)[:200_000], "cut off"),
    "cut off, legacy": (LEGACY[:-1000], "cut off"),
    "cut off, arrays": (pickle.dumps({"model": {"w": np.zeros(999)}})[:500], "cut off"),
    "overwritten inside": (saved(LARGE).replace(b"\x80\x02}q\x00", bytes(5)), "cut off"),
    "a web page": (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    "a pointer of LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "text": (b"model_0000099.pth", "it is text ('model_0000099.pth'"),
    "json": (b'{"weight_map": {}}', "it is text"),
    "compressed": (gzip.compress(saved(STATE)), "gzip"),
    "a zip archive": (zipped(), "zip archive without tensors"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no known format"),
    "no tensors": (saved({"epoch": 3}), "no tensors"),
    "Caffe2": (pickle.dumps({"blobs": {"conv1_w": np.zeros((2, 2))}}), "Caffe2"),
}


@pytest.mark.parametrize("content, reason", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_named_with_the_reason(tmp_path, content, reason, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError) as error:
        read_checkpoint(path)
    message = str(error.value)
    assert message.startswith(f"{path} is no readable checkpoint: ") and reason in message


@pytest.mark.parametrize(
    "content",
    [
        saved({"model": STATE, "class_names": ["cat", "dog"]}),
        saved({"model": STATE}, _use_new_zipfile_serialization=False),
        pickle.dumps({"model": {"w": np.zeros(9)}}),
        save(STATE, {"class_names": '["cat", "dog"]'}),
    ],
    ids=["zip", "legacy", "arrays", "safetensors"],
)
def test_whatever_bytes_are_broken_the_file_is_named(tmp_path, content):
    path = tmp_path / "file.pth"
    draw = random.Random(0)
    refused = 0
    for number in range(120):
        broken = bytearray(content)
        for _ in range(1 + number % 20):  # in the first part, where the structure is, and anywhere
            broken[draw.randrange(len(broken) if number % 2 else 150)] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            read_checkpoint(path)
        except (DamagedCheckpointError, UnsafeCheckpointError) as error:
            assert str(path) in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize("kind", ["empty", "never written", "cut off", "a web page", "text"])
def test_damage_is_seen_without_reading_the_whole(tmp_path, kind):
    (tmp_path / "file.pth").write_bytes(DAMAGED[kind][0])
    with pytest.raises(DamagedCheckpointError, match="no readable checkpoint"):
        check_readable(tmp_path / "file.pth")


def test_cut_off_safetensors_are_seen_without_reading_the_whole(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file(LARGE, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedCheckpointError, match="cut off"):
        check_readable(path)


@pytest.mark.parametrize("content", [network(), {"model": STATE, "hook": network}])
def test_pickled_objects_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UnsafeCheckpointError, match="could run code"):
        read_checkpoint(tmp_path / "file.pth")


def test_the_log_that_mmengine_keeps_beside_weights_is_passed_over(tmp_path, monkeypatch):
    history = type("HistoryBuffer", (), {"__module__": "mmengine.logging.history_buffer"})
    buffer = history()
    buffer._log_history, buffer._max_length = np.ones(3), 9
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = history
    content = {"state_dict": STATE, "message_hub": {"log_scalars": {"train/loss": buffer}}}
    torch.save(content, tmp_path / "epoch_1.pth")
    monkeypatch.undo()  # as on a machine without it
    assert read_tensors(tmp_path / "epoch_1.pth").keys() == STATE.keys()


def test_a_folder_says_what_is_in_it(tmp_path):
    torch.save(STATE, tmp_path / "model_final.pth")
    with pytest.raises(FileNotFoundError, match=r"is a folder.*model_final\.pth"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint.*there are: model_final\.pth"):
        read_checkpoint(tmp_path / "model_finale.pth")


def test_the_heuristics_of_detectron2_need_not_be_asked_for(tmp_path):
    torch.save(STATE, tmp_path / "file.pth")
    found = read_tensors(f"{tmp_path}/file.pth?matching_heuristics=True")
    assert found.keys() == STATE.keys()


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "file.pth")
    assert read_tensors("~/file.pth").keys() == STATE.keys()


@pytest.mark.parametrize(
    "rest",
    [
        {"class_names": ["cat", "dog"]},
        {"meta": {"CLASSES": ("cat", "dog")}},
        {"meta": {"dataset_meta": {"classes": ("cat", "dog")}}},
    ],
)
def test_class_names_of_a_checkpoint(tmp_path, rest):
    torch.save({"state_dict": STATE} | rest, tmp_path / "file.pth")
    assert read_checkpoint(tmp_path / "file.pth").class_names == ("cat", "dog")


def test_class_names_in_the_metadata_of_safetensors(tmp_path):
    save_file(STATE, tmp_path / "file.safetensors", {"class_names": '["cat", "dog"]'})
    assert read_checkpoint(tmp_path / "file.safetensors").class_names == ("cat", "dog")
