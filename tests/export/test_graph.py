"""The graph finds what the model finds, whatever the model and the padding."""

import pytest
import torch
from detectors import MODELS, build, make_input
from export_fixtures import with_spread_scores

from co_detr.export.check import compare, expected_detections
from co_detr.export.description import Description
from co_detr.export.detectors import ExportedModel
from co_detr.export.exporting import describe
from co_detr.export.graph import DetectionGraph
from co_detr.inference.detector import Detector
from co_detr.ops.soft_nms import NMS, SoftNMS

HEIGHT, WIDTH = 96, 128
SIZES = [(96, 128), (60, 100), (33, 1)]


class Eager(ExportedModel):
    """The graph as it is, in place of a file; keeps what it gave last."""

    def __init__(self, graph: DetectionGraph, description: Description):
        super().__init__(description)
        self.graph = graph

    @torch.no_grad()
    def run(self, images, sizes):
        self.outputs = self.graph(images, sizes)
        return self.outputs


def eager(model, size=(HEIGHT, WIDTH)):
    detector = Detector(model, [{"id": i, "name": str(i)} for i in range(7)])
    return Eager(DetectionGraph(model), describe(detector, size))


def pictures(sizes):
    inputs = [make_input(*size, seed=i) for i, size in enumerate(sizes)]
    return [{"image": x["image"].to(torch.uint8)} for x in inputs]


def check(model, sizes=SIZES, size=(HEIGHT, WIDTH)):
    exported, inputs = eager(model, size), pictures(sizes)
    found = [output["instances"] for output in exported(inputs)]
    expected = expected_detections(model, inputs, *size)
    difference = compare(found, expected, tolerance=1e-3)
    assert difference.count == sum(map(len, expected)) > 3
    return exported, found


def model_of(name, **changes):
    return with_spread_scores(build(MODELS[name](), **changes))


@pytest.mark.parametrize("name", [n for n in MODELS if n.endswith("no-heads") or n == "one-stage"])
def test_of_every_family(name):
    check(model_of(name, image_format="BGR"))


@pytest.mark.parametrize("canvas", [None, 128])
def test_where_padding_counts_as_image(canvas):
    model = model_of("no-heads", mask_padding=False, canvas=canvas)
    check(model, [(96, 128), (90, 110)], (96, 128) if canvas is None else (canvas, canvas))


@pytest.mark.parametrize("suppression", [NMS(0.1), SoftNMS()])
def test_with_duplicates_suppressed(suppression):
    model = model_of("no-heads")
    model.postprocess.suppression, model.postprocess.max_detections = suppression, 30
    exported, found = check(model, sizes=SIZES[:2])
    if isinstance(suppression, NMS):
        boxes, scores, labels, _ = exported.outputs
        counts = (scores > 0).sum(1).tolist()
        assert counts == [len(instances) for instances in found]
        assert min(counts) < scores.shape[1] == model.postprocess.max_detections
    else:
        Q = model.query_sources["matching"].num_queries
        assert exported.outputs[1].shape == (2, Q)
        assert exported.description.soft_nms["iou_threshold"] == 0.3


def test_what_is_beyond_a_picture_does_not_matter():
    graph = DetectionGraph(model_of("no-heads"))
    images = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    others = images.clone()
    others[..., 90:] = 255 - others[..., 90:]
    with torch.no_grad():
        results = [graph(x, torch.tensor([[HEIGHT, 90]])) for x in (images, others)]
    for first, second in zip(*results):
        assert torch.equal(first, second)


def test_models_in_half_precision_become_graphs():
    model = model_of("no-heads").to(torch.bfloat16)
    images = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    with torch.no_grad():
        _, scores, *_ = DetectionGraph(model)(images, torch.tensor([[HEIGHT, WIDTH]]))
        found = model([{"image": images[0]}])[0]["instances"]
    torch.testing.assert_close(scores[0].float(), found.scores)


def test_what_cannot_be_exported_says_why():
    model = build(MODELS["two-heads"](), eval_branch="atss")
    with pytest.raises(ValueError, match="eval_branch='atss'"):
        DetectionGraph(model)
    with pytest.raises(TypeError, match="a Linear cannot be exported"):
        DetectionGraph(torch.nn.Linear(1, 1))
    model = build(MODELS["no-heads"](), mask_padding=False, canvas=128)
    with pytest.raises(ValueError, match="export it for 128 x 128"):
        eager(model)
