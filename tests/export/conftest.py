"""A tiny detector, and the two files it is exported to; each is written once, which takes time."""

import numpy as np
import pytest
from export_fixtures import SIZE, detector_of, tiny_model
from PIL import Image

from co_detr.export.detectors import OnnxDetector, TorchDetector
from co_detr.export.exporting import export


@pytest.fixture(scope="session")
def detector():
    return detector_of(tiny_model(image_format="BGR"))


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A picture that is resized to the input's size: edges, colours and noise."""
    y, x = np.mgrid[:192, :256]
    noise = np.random.default_rng(0).integers(0, 60, (192, 256, 3))
    shapes = np.stack([x // 2, 120 * ((x - 100) ** 2 + (y - 80) ** 2 < 1600), y], -1)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.clip(shapes + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def onnx_detector(detector, photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    export(detector, path, photo, size=SIZE)
    return OnnxDetector(path, batch_size=4)


@pytest.fixture(scope="session")
def torch_detector(detector, photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.pt2"
    export(detector, path, photo, format="torch", size=SIZE)
    return TorchDetector(path, batch_size=4)
