"""What the embedded detectron2 says of the parts that only detectron2 itself has."""

import importlib.util
import pydoc
import sys

import detectron2.modeling
import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import co_detr

pytestmark = pytest.mark.skipif(
    not co_detr.detectron2_origin().startswith("embedded"), reason="messages of the embedded one"
)


@pytest.mark.parametrize(
    "statement",
    [
        "from detectron2.utils.visualizer import ColorMode, Visualizer",
        "from detectron2.utils import visualizer",
        "from detectron2 import model_zoo",
        "import detectron2.model_zoo",
        "import detectron2.projects.point_rend",
        "from detectron2.export import TracingAdapter",
        "from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN",
        "from detectron2.modeling import build_model, FCOS",  # of a package
        "from detectron2.engine.hooks import EvalHook, PreciseBN",  # of a module
        "from detectron2.data import load_proposals_into_dataset as load",
        "from detectron2.data.build import load_proposals_into_dataset",
    ],
)
def test_importing_a_missing_part_says_what_to_do(statement):
    name = statement.split()[1]
    with pytest.raises(ImportError, match="install detectron2.*docs/detectron2.md") as caught:
        exec(statement, {})
    assert "detectron2" in caught.value.name and name.startswith(caught.value.name)


def test_asking_for_a_missing_part_is_no_error():
    assert not hasattr(detectron2.modeling, "FCOS")
    assert getattr(detectron2.engine.hooks, "PreciseBN", None) is None
    assert importlib.util.find_spec("detectron2.model_zoo") is None
    assert pydoc.locate("detectron2.modeling.FCOS") is None
    with pytest.raises(AttributeError, match="no attribute 'FCOS': not part of the subset"):
        detectron2.modeling.FCOS  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute '__wrapped__'$"):
        detectron2.modeling.__wrapped__  # noqa: B018


def test_what_is_there_is_found_as_ever(monkeypatch):
    assert importlib.util.find_spec("detectron2.utils.comm").origin.endswith("comm.py")
    monkeypatch.delitem(sys.modules, "detectron2.layers.mask_ops")
    from detectron2.layers import mask_ops

    assert mask_ops.__name__ == "detectron2.layers.mask_ops"
    # the module of a function that its package exports under the same name
    assert pydoc.locate("detectron2.engine.launch") is detectron2.engine.launch
    assert callable(detectron2.engine.launch)


def test_detectron2s_own_models_are_missing_parts_too():
    cfg = get_cfg()
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    with pytest.raises(KeyError, match="GeneralizedRCNN.*own models are not part of the subset"):
        build_model(cfg)
