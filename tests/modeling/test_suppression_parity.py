"""Detections under every kind of suppression, against those of the released implementation.

Each variant was computed there from the same raw outputs, which the fixtures hold too.
"""

import pytest
import torch
from golden import build, co_deformable_detr_config, co_dino_config, tensors

from co_detr.modeling.postprocess import TopKDetections
from co_detr.ops.soft_nms import NMS, SoftNMS

CONFIGS = {
    "co_deformable_detr_tiny": co_deformable_detr_config,
    "co_dino_tiny": co_dino_config,
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def recorded(folder):
    return tensors(folder, "inference")


def check(detections, recorded, name):
    for i, found in enumerate(detections):
        want = {key: recorded[f"det.{name}.{i}.{key}"] for key in ("boxes", "scores", "labels")}
        assert torch.equal(found.pred_classes, want["labels"])
        torch.testing.assert_close(found.scores, want["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.pred_boxes.tensor, want["boxes"], atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "name, suppression",
    [
        ("detr_no_nms", None),
        ("detr_soft_nms_0.8", SoftNMS(iou_threshold=0.8)),
        ("detr_soft_nms_0.3", SoftNMS(iou_threshold=0.3)),
        ("detr_soft_nms_gauss", SoftNMS(method="gaussian", sigma=0.5, min_score=0.05)),
        ("detr_nms_0.5", NMS(0.5)),
    ],
)
def test_matching_queries(recorded, name, suppression):
    postprocess = TopKDetections(max_detections=20, suppression=suppression)
    sizes = [tuple(size) for size in recorded["image_sizes"].tolist()]
    found = postprocess(recorded["cls_logits"][-1], recorded["boxes"][-1], sizes)
    check(found, recorded, name)


def test_the_released_setting_of_each_model(folder, recorded):
    """`detr` is without suppression in Deformable-DETR and with soft-NMS of 0.8 in DINO."""
    expected = {"co_deformable_detr_tiny": "detr_no_nms", "co_dino_tiny": "detr_soft_nms_0.8"}
    for i in range(2):
        for key in ("boxes", "scores", "labels"):
            same = recorded[f"det.{expected[folder]}.{i}.{key}"]
            assert torch.equal(recorded[f"det.detr.{i}.{key}"], same)


@pytest.fixture(scope="module")
def model(folder):
    return build(CONFIGS[folder](), folder)


@torch.no_grad()
@pytest.mark.parametrize(
    "branch, name, threshold",
    [("atss", "one_stage_soft_nms_0.6", 0.6), ("rcnn", "two_stage_soft_nms_0.5", 0.5)],
)
def test_auxiliary_heads(model, recorded, branch, name, threshold, monkeypatch):
    head = model.aux_heads[branch]
    monkeypatch.setattr(head, "suppression", SoftNMS(iou_threshold=threshold))
    shapes = recorded["spatial_shapes"].tolist()
    levels = recorded["memory"].split([h * w for h, w in shapes], dim=1)
    maps = [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes)]
    sizes = [tuple(size) for size in recorded["image_sizes"].tolist()]
    check(head.inference([*maps, recorded["pyramid_extra"]], sizes), recorded, name)
