"""The command, with a detector and a file that are there already."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from export_fixtures import SIZE, detector_of, tiny_model
from golden import co_deformable_detr_config, keep_encoder_heads

from co_detr.export import command, exporting
from co_detr.export.exporting import format_of
from co_detr.inference import detector as detector_module


@pytest.fixture
def export_command(photo, tmp_path, monkeypatch, onnx_detector):
    def run(model, *words, name="x.onnx"):
        monkeypatch.setattr(detector_module, "load_detector", lambda *_, **__: detector_of(model))
        monkeypatch.setattr(
            exporting,
            "write_onnx",
            lambda graph, about, path, *_: shutil.copy(onnx_detector.model.path, path),
        )
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        size = [str(side) for side in SIZE]
        words = ["model.pth", str(tmp_path / name), "--picture", str(photo), *words]
        return command.run(parser.parse_args([*words, "--size", *size]))

    return run


def test_says_what_it_wrote(export_command, tmp_path, caplog, capsys):
    assert export_command(tiny_model(image_format="BGR")) == 0
    assert (tmp_path / "x.onnx").is_file()
    assert "40 detections, boxes within" in capsys.readouterr().out + caplog.text


@pytest.mark.parametrize(
    "name, asked, expected",
    [
        ("b.onnx", None, "onnx"),
        ("b.pt2", None, "torch"),
        ("b.PT2", "torch", "torch"),
        ("b.bin", "onnx", "onnx"),
        ("b", "torch", "torch"),
    ],
)
def test_the_format_is_that_of_the_name(name, asked, expected):
    assert format_of(Path(name), asked) == expected


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("b.pt2", ["--format", "onnx"], r"b\.onnx, or say torch \(--format\)"),
        ("b.onnx", ["--format", "torch"], r"b\.pt2, or say onnx \(--format\)"),
        ("b.pth", [], r"b\.pth ends neither in \.onnx nor in \.pt2: name it so, or say the format"),
    ],
)
def test_a_name_of_another_format_is_refused(export_command, tmp_path, name, words, message):
    with pytest.raises(ValueError, match=message):
        export_command(None, *words, name=name)
    assert not list(tmp_path.iterdir())


def test_says_what_differs_and_fails(export_command, tmp_path, caplog, capsys):
    model = tiny_model(image_format="BGR")
    with torch.no_grad():
        model.decoder.norm.bias += 1e-2
    assert export_command(model) == 1
    assert not list(tmp_path.iterdir())
    assert "x.onnx was not written: " in capsys.readouterr().out + caplog.text


@pytest.mark.parametrize("nms", ["model", "none", "0.7"])
def test_a_model_without_a_decoder_cannot_be_exported(export_command, nms):
    cfg = co_deformable_detr_config()
    keep_encoder_heads(cfg, "atss")
    with pytest.raises(TypeError, match="EncoderDetector cannot be exported, only a CoDETR"):
        export_command(instantiate(cfg), "--nms", nms)


def test_a_tolerance_is_a_positive_number(export_command, capsys):
    with pytest.raises(SystemExit):
        export_command(None, "--tolerance", "0")
    assert "0 is not above 0" in capsys.readouterr().err
