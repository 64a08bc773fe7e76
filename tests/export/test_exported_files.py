"""Exported files, read back: what they find, what they hold, and when they are not written."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from detectron2.data.transforms import NoOpTransform
from export_fixtures import CATEGORIES, SIZE, detector_of, tiny_model
from PIL import Image

from co_detr.export import exporting
from co_detr.export.check import ExportDiffersError, compare, expected_detections
from co_detr.export.description import KEY, Description
from co_detr.export.detectors import OnnxDetector, TorchDetector, fitting_resize
from co_detr.export.exporting import default_size, export, set_nms
from co_detr.ops.soft_nms import NMS


@pytest.fixture(params=["onnx", "torch"])
def exported(request):
    return request.getfixturevalue(f"{request.param}_detector")


@pytest.mark.parametrize("sizes", [[SIZE], [SIZE, (96, 100), (40, 128)]])
def test_batches_and_padding(exported, detector, sizes):
    generator = torch.Generator().manual_seed(3)
    inputs = [
        {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
        for size in sizes
    ]
    found = [output["instances"] for output in exported.model(inputs)]
    expected = expected_detections(detector.model, inputs, *SIZE)
    difference = compare(found, expected, tolerance=1e-3)
    assert difference.count == len(sizes) * 20 and difference.exchanged == 0


def test_same_call_and_results_as_the_detector(exported, detector, photo, tmp_path):
    assert exported.categories == CATEGORIES and exported.image_format == "BGR"
    with Image.open(photo) as image:
        array = np.asarray(image)
        one = exported(photo, threshold=0.3)
        several = exported([str(photo), image, array], threshold=0.3)
    shutil.copy(photo, tmp_path / "a.png")
    [(path, of_folder)] = exported(tmp_path, threshold=0.3)
    expected = detector(photo, threshold=0.3)
    assert path.name == "a.png" and len(expected) > 3
    assert one.image_size == expected.image_size == (192, 256)
    for found in (one, *several, of_folder):
        assert compare([found], [expected], tolerance=1e-3).count == len(expected)


def test_only_standard_operators_and_a_free_batch(onnx_detector):
    model = onnx.load(onnx_detector.model.path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""] and not model.functions
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    N = "batch"
    assert shapes == {
        "images": [N, 3, *SIZE],
        "sizes": [N, 2],
        "boxes": [N, 30, 4],  # all queries, for the soft-NMS of Co-DINO
        "scores": [N, 30],
        "labels": [N, 30],
        "proposals": [N, 30],
    }


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_nms_goes_into_the_file(format, photo, tmp_path):
    detector = detector_of(tiny_model(image_format="BGR"))
    set_nms(detector.model, "0.3")
    path = tmp_path / ("model.onnx" if format == "onnx" else "model.pt2")
    export(detector, path, photo, format=format, size=SIZE)  # and compare both
    found = (OnnxDetector if format == "onnx" else TorchDetector)(path)(photo, threshold=0)
    assert len(found) == len(detector(photo, threshold=0)) > 0


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_file_that_differs_is_not_written(
    format, detector, onnx_detector, torch_detector, photo, tmp_path, monkeypatch
):
    other = {"onnx": onnx_detector, "torch": torch_detector}[format].model.path
    name = f"write_{format}"
    monkeypatch.setattr(exporting, name, lambda graph, about, path, *_: shutil.copy(other, path))
    target = tmp_path / "model"
    target.write_text("of before")
    model = tiny_model(image_format="BGR")
    with torch.no_grad():
        model.decoder.norm.bias += 1e-4
    with pytest.raises(ExportDiffersError, match="detections of the file are not those of"):
        export(detector_of(model), target, photo, format=format, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert target.read_text() == "of before"


def test_a_missing_package_names_the_extra(detector, photo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r'onnxscript: pip install "co-detr\[export\]"'):
        export(detector, tmp_path / "model.onnx", photo, size=SIZE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r'onnxruntime: pip install "co-detr\[export\]"'):
        OnnxDetector(tmp_path / "model.onnx")


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "other.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [y])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(ValueError, match="other.onnx does not say what model it holds"):
        OnnxDetector(path)
    with pytest.raises(FileNotFoundError, match="nowhere.onnx"):
        OnnxDetector(tmp_path / "nowhere.onnx")


def test_providers_that_there_are_not_are_refused(onnx_detector):
    path = onnx_detector.model.path
    with pytest.raises(ValueError, match=r"^providers \['GPU'\]: this .* has .*'CPUExec"):
        OnnxDetector(path, providers=["CPUExecutionProvider", "GPU"])
    OnnxDetector(path, providers=[("CPUExecutionProvider", {})])


def test_a_file_of_the_other_format_names_its_class(onnx_detector, torch_detector, tmp_path):
    """Whatever the files are called."""
    for detector, other in ((onnx_detector, TorchDetector), (torch_detector, OnnxDetector)):
        path = shutil.copy(detector.model.path, tmp_path / "b.pt2")
        match = rf"b\.pt2 is no file for {other.__name__}: {type(detector).__name__}\('.*reads"
        with pytest.raises(ValueError, match=match):
            other(path)


@pytest.mark.parametrize("kind", [OnnxDetector, TorchDetector])
@pytest.mark.parametrize(
    "content", [b"", b"no file of a model", bytes(999), b"<!DOCTYPE html>", b"PK\x03\x04cut"]
)
def test_broken_files_are_named(tmp_path, kind, content):
    path = tmp_path / "broken.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.file cannot be read .* `co-detr export` wrote"):
        kind(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("height", 0),
        ("width", "128"),
        ("max_detections", None),
        ("min_size", -1),
        ("max_size", 1.5),
        ("image_format", "L"),
        ("categories", ["cat"]),
        ("categories", [{"id": 1}]),
        ("soft_nms", {"no_such": 1}),
        ("no_such", 1),
    ],
)
def test_a_description_that_is_none_is_refused(key, value):
    described = {"height": 128, "width": 128, "categories": [{"id": 1, "name": "cat"}]}
    good = {KEY: json.dumps(described)}
    assert Description.from_metadata(good, "a.onnx").categories == described["categories"]
    bad = {KEY: json.dumps({**described, key: value})}
    with pytest.raises(ValueError, match=r"a\.onnx does not say what model it holds"):
        Description.from_metadata(bad, "a.onnx")


@pytest.mark.parametrize(
    "input_size, test_size, picture, expected",
    [
        ((800, 1344), (800, 1333), (480, 640), (800, 1067)),  # as tested
        ((800, 1344), (800, 1333), (640, 480), (800, 600)),  # upright, too high for the input
        ((640, 640), (800, 1333), (480, 640), (480, 640)),
        ((640, 640), (800, 1333), (333, 1000), (213, 640)),
        ((640, 640), (800, 1333), (1, 5000), (1, 640)),
        ((128, 128), (0, 0), (100, 128), (100, 128)),
        ((128, 128), (0, 0), (256, 64), (128, 32)),
    ],
)
def test_pictures_are_resized_as_in_tests_or_smaller(input_size, test_size, picture, expected):
    about = Description(*input_size, [], min_size=test_size[0], max_size=test_size[1])
    resize = fitting_resize(about, *picture).get_transform(np.zeros((*picture, 3), np.uint8))
    new = picture if isinstance(resize, NoOpTransform) else (resize.new_h, resize.new_w)
    assert new == expected


def test_sizes_and_nms_of_the_command_line(monkeypatch):
    detector = detector_of(tiny_model(), min_size=96, max_size=120)
    monkeypatch.setattr(type(detector.model.backbone), "size_divisibility", 16)
    photo = np.zeros((65, 90, 3), dtype=np.uint8)
    assert default_size(detector, photo) == (128, 128)  # a multiple of 16
    with pytest.raises(ValueError, match="have to be multiples of 16"):
        exporting.describe(detector, (100, 128))
    detector.min_size = 0
    assert default_size(detector, photo) == (80, 96)
    set_nms(detector.model, "0.7")
    assert detector.model.postprocess.suppression == NMS(0.7)
    set_nms(detector.model, "none")
    assert detector.model.postprocess.suppression is None
    for wrong in ("soft", "1.5", "nan"):
        with pytest.raises(ValueError, match=f"--nms {wrong}"):
            set_nms(detector.model, wrong)
