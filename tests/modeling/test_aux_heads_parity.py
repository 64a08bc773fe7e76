"""The auxiliary heads against the released model: outputs, assignments, losses, detections.

The reference is the shrunken Co-Deformable-DETR in `tests/data`. Heads read the encoder's memory,
which does not depend on the ground truth: the maps recorded at inference also serve in training.
"""

import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from safetensors.torch import load_file

from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.rcnn import BoxHead, FasterRCNNHead
from co_detr.modeling.aux_heads.rpn import RPN
from co_detr.modeling.aux_heads.truth import BACKGROUND, IGNORED, PaddedTruth
from co_detr.modeling.losses import normalize
from co_detr.ops.boxes import to_normalized_cxcywh

DATA = Path(__file__).parent.parent / "data" / "co_deformable_detr_tiny"
STRIDES = (8, 16, 32, 64, 128)
EVERYTHING = 1_000_000  # the reference keeps every candidate of its random samplers

# Official name -> ours, as prefixes.
ATSS_NAMES = {
    "bbox_head.0.cls_convs.0.conv.": "class_tower.0.",
    "bbox_head.0.cls_convs.0.gn.": "class_tower.0.norm.",
    "bbox_head.0.reg_convs.0.conv.": "box_tower.0.",
    "bbox_head.0.reg_convs.0.gn.": "box_tower.0.norm.",
    "bbox_head.0.atss_cls.": "class_predictor.",
    "bbox_head.0.atss_reg.": "box_predictor.",
    "bbox_head.0.atss_centerness.": "quality_predictor.",
    **{f"bbox_head.0.scales.{i}.scale": f"scales.{i}" for i in range(5)},
}
RCNN_NAMES = {
    "rpn_head.rpn_conv.": "rpn.conv.",
    "rpn_head.rpn_cls.": "rpn.objectness_logits.",
    "rpn_head.rpn_reg.": "rpn.anchor_deltas.",
    "roi_head.0.bbox_head.shared_fcs.": "box_head.fcs.",
    "roi_head.0.bbox_head.fc_cls.": "box_head.cls_score.",
    "roi_head.0.bbox_head.fc_reg.": "box_head.bbox_pred.",
}


def renamed(weights, names):
    return {
        ours + name[len(official) :]: tensor
        for name, tensor in weights.items()
        for official, ours in names.items()
        if name.startswith(official)
    }


@pytest.fixture(scope="module")
def weights():
    return load_file(DATA / "weights.safetensors")


@pytest.fixture(scope="module")
def inference():
    return load_file(DATA / "inference.safetensors")


@pytest.fixture(scope="module")
def pyramid(inference):
    """Five maps (2, 64, h, w): the memory's levels and the learned coarser one."""
    shapes = inference["spatial_shapes"].tolist()
    levels = inference["memory"].split([h * w for h, w in shapes], dim=1)
    maps = [m.transpose(1, 2).unflatten(2, shape) for m, shape in zip(levels, shapes)]
    return [*maps, inference["pyramid_extra"]]


@pytest.fixture(scope="module")
def sizes(inference):
    return [tuple(size) for size in inference["image_sizes"].tolist()]


@pytest.fixture(scope="module")
def atss(weights):
    head = ATSSHead(in_channels=64, num_classes=7, strides=STRIDES, detections_per_image=20)
    head.load_state_dict(renamed(weights, ATSS_NAMES))
    return head


@pytest.fixture(scope="module")
def rcnn(weights):
    head = FasterRCNNHead(
        rpn=RPN(
            in_channels=64,
            strides=STRIDES,
            samples_per_image=EVERYTHING,
            pre_nms_topk=(400, 300),
            post_nms_topk=(100, 80),
        ),
        box_head=BoxHead(
            in_channels=64, num_classes=7, strides=STRIDES[:4], finest_scale=14, fc_dim=16
        ),
        samples_per_image=EVERYTHING,
        positive_fraction=0.5,
        detections_per_image=20,
    )
    head.load_state_dict(renamed(weights, RCNN_NAMES))
    return head


class Step:
    """One recorded training step: its numbers, and what both heads make of its ground truth."""

    def __init__(self, name, heads, pyramid, sizes):
        self.tensors = load_file(DATA / f"{name}.safetensors")
        self.json = json.loads((DATA / f"{name}.json").read_text())
        self.sizes = sizes
        self.gt = [
            Instances(
                size,
                gt_boxes=Boxes(self.tensors[f"gt_boxes.{i}"]),
                gt_classes=self.tensors[f"gt_labels.{i}"],
            )
            for i, size in enumerate(sizes)
        ]
        self.outputs = {n: head(pyramid, sizes, self.gt) for n, head in heads.items()}

    def expected_loss(self, name):
        value = self.json["losses"][name]
        return sum(value) if isinstance(value, list) else value


@pytest.fixture(scope="module", params=["train_neg_pad", "train_zero_pad"])
def step(request, atss, rcnn, pyramid, sizes):
    return Step(request.param, {"atss": atss, "rcnn": rcnn}, pyramid, sizes)


# ---------------------------------------------------------------- raw outputs and detections


def test_atss_outputs(atss, pyramid, inference):
    outputs = atss.predict(pyramid)
    for name, got in (
        ("cls", outputs.logits),
        ("reg", outputs.regression),
        ("ctr", outputs.quality[..., None]),
    ):
        maps = [inference[f"atss_{name}.{level}"] for level in range(5)]
        expected = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_rpn_outputs(rcnn, pyramid, inference):
    logits, deltas = rcnn.rpn.predict(pyramid)
    skipped = 13 * 16 * 9  # the finest level is not recorded
    for name, width, got in (("cls", 1, logits[..., None]), ("reg", 4, deltas)):
        maps = [inference[f"rpn_{name}.{level}"] for level in range(1, 5)]
        expected = [m.permute(0, 2, 3, 1).reshape(2, -1, width) for m in maps]
        torch.testing.assert_close(got[:, skipped:], torch.cat(expected, 1), atol=1e-4, rtol=0)


@torch.no_grad()
def test_proposals_and_roi_head_outputs(rcnn, pyramid, sizes, inference):
    proposals = rcnn.rpn.inference(pyramid, sizes)
    for i, got in enumerate(proposals):
        expected = inference[f"two_stage.proposals.{i}"]
        torch.testing.assert_close(got.proposal_boxes.tensor, expected[:, :4], atol=1e-2, rtol=0)
        torch.testing.assert_close(
            got.objectness_logits.sigmoid(), expected[:, 4], atol=1e-4, rtol=0
        )
    logits, deltas, _ = rcnn.box_head(pyramid, [p.proposal_boxes for p in proposals])
    torch.testing.assert_close(logits, inference["two_stage.cls_score"], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        deltas.flatten(1), inference["two_stage.bbox_pred"], atol=1e-4, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("name, mode", [("atss", "one_stage"), ("rcnn", "two_stage")])
def test_detections(name, mode, pyramid, sizes, inference, request):
    head = request.getfixturevalue(name)
    for i, got in enumerate(head.inference(pyramid, sizes)):
        expected = {k: inference[f"det.{mode}.{i}.{k}"] for k in ("boxes", "scores", "labels")}
        assert got.image_size == sizes[i]
        assert torch.equal(got.pred_classes, expected["labels"])
        torch.testing.assert_close(got.scores, expected["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(got.pred_boxes.tensor, expected["boxes"], atol=1e-2, rtol=0)


# ---------------------------------------------------------------- assignments


def test_atss_assignment(step):
    for i, (samples, gt) in enumerate(zip(step.outputs["atss"].samples, step.gt)):
        total, _, num_positive = step.tensors[f"atss.count.{i}"].tolist()
        positive = (samples.gt_classes < 7).nonzero().squeeze(1)
        assert (len(samples), len(positive)) == (total, num_positive)
        assert torch.equal(positive, step.tensors[f"atss.pos_anchor.{i}"])
        torch.testing.assert_close(
            samples.proposal_boxes.tensor[positive], step.tensors[f"atss.pos_anchor_box.{i}"]
        )
        matched = step.tensors[f"atss.pos_gt.{i}"]
        assert torch.equal(samples.gt_boxes.tensor[positive], gt.gt_boxes.tensor[matched])
        assert torch.equal(samples.gt_classes[positive], gt.gt_classes[matched])


def test_valid_anchors(step, atss, rcnn, pyramid):
    for prefix, anchors in (("atss", atss.anchors), ("rpn", rcnn.rpn.anchors)):
        counts = anchors.valid(pyramid, step.sizes).sum(dim=1).tolist()
        assert counts == [step.tensors[f"{prefix}.count.{i}"][1].item() for i in range(2)]


def test_rpn_anchors_and_their_assignment(step, rcnn, pyramid):
    anchors = Boxes(torch.cat(rcnn.rpn.anchors(pyramid)))
    torch.testing.assert_close(
        anchors.tensor[[0, 1, 2, 3, 9, -1]], step.tensors["rpn.anchor_first_last"]
    )
    valid = rcnn.rpn.anchors.valid(pyramid, step.sizes)
    for i, matches in enumerate(
        rcnn.rpn.match(anchors.tensor, valid, PaddedTruth.from_instances(step.gt))
    ):
        gt, kinds = step.gt[i], (matches >= 0, matches == BACKGROUND, matches == IGNORED)
        counts = [(kind & valid[i]).sum().item() for kind in kinds]
        assert counts == step.tensors[f"rpn.count.{i}"][2:].tolist()
        positive = (matches >= 0).nonzero().squeeze(1)
        assert torch.equal(positive, step.tensors[f"rpn.pos_anchor.{i}"])
        assert torch.equal(matches[positive], step.tensors[f"rpn.pos_gt.{i}"])
        deltas = rcnn.rpn.box_transform.get_deltas(
            anchors.tensor[positive], gt.gt_boxes.tensor[matches[positive]]
        )
        torch.testing.assert_close(
            deltas, step.tensors[f"rpn.pos_delta_target.{i}"], atol=1e-4, rtol=0
        )


def test_roi_samples(step):
    for i, (samples, gt) in enumerate(zip(step.outputs["rcnn"].samples, step.gt)):
        samples = samples[samples.gt_classes >= 0]
        num_positive, num_negative = step.tensors[f"roi.count.{i}"].tolist()
        assert (samples.gt_classes < 7).tolist() == [True] * num_positive + [False] * num_negative
        positive = samples[:num_positive]
        proposals = step.tensors[f"rpn.proposals.{i}"][:, :4]
        candidates = torch.cat([gt.gt_boxes.tensor, proposals])
        index = step.tensors[f"roi.pos_index.{i}"]
        is_negative = torch.ones(len(candidates), dtype=torch.bool)
        is_negative[index] = False
        torch.testing.assert_close(
            samples.proposal_boxes.tensor,
            torch.cat([candidates[index], candidates[is_negative]]),
            atol=1e-2,
            rtol=0,
        )
        matched = step.tensors[f"roi.pos_gt.{i}"]
        assert torch.equal(positive.gt_boxes.tensor, gt.gt_boxes.tensor[matched])
        assert torch.equal(positive.gt_classes, gt.gt_classes[matched])
        assert not samples.gt_boxes.tensor[num_positive:].any()


@pytest.mark.parametrize("name, number", [("rcnn", 0), ("atss", 1)])
def test_samples_hold_what_the_queries_of_the_reference_were_made_of(step, name, number):
    """Its queries are the first positives and, where these are too few, the first negatives."""
    for i, samples in enumerate(step.outputs[name].samples):
        expected = {
            k: step.tensors[f"aux{number}.{k}"][i] for k in ("coords", "targets", "labels", "feats")
        }
        count = len(expected["labels"])
        samples = samples[samples.gt_classes >= 0]
        foreground = samples.gt_classes < 7
        order = torch.cat([foreground.nonzero(), (~foreground).nonzero()]).squeeze(1)[:count]
        chosen = samples[order]
        height, width = chosen.image_size
        scale = torch.tensor([width, height, width, height])
        assert torch.equal(chosen.gt_classes, expected["labels"])
        torch.testing.assert_close(
            to_normalized_cxcywh(chosen.proposal_boxes.tensor, scale),
            expected["coords"],
            atol=1e-4,
            rtol=0,
        )
        torch.testing.assert_close(
            to_normalized_cxcywh(chosen.gt_boxes.tensor, scale),
            expected["targets"],
            atol=1e-4,
            rtol=0,
        )
        torch.testing.assert_close(chosen.features, expected["feats"], atol=1e-4, rtol=0)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(
    "head, name, official",
    [
        ("rcnn", "loss_rpn_class", "loss_rpn_cls"),
        ("rcnn", "loss_rpn_box", "loss_rpn_bbox"),
        ("rcnn", "loss_class", "loss_cls0"),
        ("rcnn", "loss_box", "loss_bbox0"),
        ("atss", "loss_class", "loss_cls1"),
        ("atss", "loss_box", "loss_bbox1"),
        ("atss", "loss_centerness", "loss_centerness1"),
    ],
)
def test_losses(step, head, name, official):
    loss = normalize(step.outputs[head].losses)[name]
    assert loss.item() == pytest.approx(step.expected_loss(official), rel=1e-4)


@pytest.mark.parametrize("name, names", [("atss", ATSS_NAMES), ("rcnn", RCNN_NAMES)])
def test_gradients_of_the_parameters(step, name, names, request):
    head = request.getfixturevalue(name)
    norms = renamed(step.json["grad_norms"], names)
    total = sum(normalize(step.outputs[name].losses).values())
    parameters = dict(head.named_parameters())
    gradients = torch.autograd.grad(total, list(parameters.values()), retain_graph=True)
    assert norms.keys() == parameters.keys()
    for parameter, gradient in zip(parameters, gradients):
        assert gradient.norm().item() == pytest.approx(norms[parameter], rel=1e-3), parameter
