"""RetinaNet, FCOS, PAA and GFL against the released heads, each alone on given feature maps.

The reference is in `tests/data/dense_heads`. Where it has one number per level, ours has the sum.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from safetensors.torch import load_file

from co_detr.checkpoint.official import dense_head
from co_detr.checkpoint.rename import rename
from co_detr.modeling.aux_heads.centerness import centerness
from co_detr.modeling.aux_heads.fcos import FCOSHead
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.mixture import fit_mixtures
from co_detr.modeling.aux_heads.paa import PAAHead, best_candidates
from co_detr.modeling.aux_heads.points import distances_to_sides
from co_detr.modeling.aux_heads.retinanet import RetinaNetHead
from co_detr.modeling.aux_heads.truth import PaddedTruth
from co_detr.modeling.losses import normalize
from co_detr.ops.boxes import broadcast_iou

DATA = Path(__file__).parent.parent / "data" / "dense_heads"
STRIDES = (8, 16, 32, 64, 128)
NUM_CLASSES = 7
QUALITIES = ("ctr", "iou")


@dataclass(frozen=True)
class Reference:
    """A recorded head with one setting of its options.

    Attributes:
        folder: whose weights and numbers they are.
        make: our head.
        losses: official name of each loss -> ours.
        training: names of the recorded training steps.
        options: of our head.
        inference: file of outputs and detections, None where there are none.
        weights: files; the later one replaces tensors of the former.
        without: part of the names of weights that this setting does not have.
        nms: overlap threshold of the head's own test setting.
        recorded: turns our box output into what is recorded of it.
    """

    folder: str
    make: type
    losses: dict[str, str]
    training: tuple[str, ...]
    options: dict = field(default_factory=dict)
    inference: str | None = "inference"
    weights: tuple[str, ...] = ("weights",)
    without: str = "nothing"
    nms: float = 0.6
    recorded: Callable = lambda x: x

    def load(self, name):
        return load_file(DATA / self.folder / f"{name}.safetensors")

    def head(self, **options):
        head = self.make(
            in_channels=64,
            num_classes=NUM_CLASSES,
            strides=STRIDES,
            detections_per_image=20,
            **self.options | options,
        )
        weights = {}
        for name in self.weights:
            weights |= self.load(name)
        weights = {k: v for k, v in weights.items() if self.without not in k}
        head.load_state_dict(ours(weights, head))
        return head


def ours(official, head):
    """Numbers under official names of the head alone, under those of our head, strictly."""
    source = {f"bbox_head.0.{name}": torch.as_tensor(x) for name, x in official.items()}
    model = {f"aux_heads.head.{name}": x for name, x in head.state_dict().items()}
    renamed, _ = rename(source, dense_head(0, "head"), model, any_shape=lambda name: True)
    return {name.removeprefix("aux_heads.head."): x for name, x in renamed.items()}


FCOS_LOSSES = {
    "loss_cls": "loss_class",
    "loss_bbox": "loss_box",
    "loss_centerness": "loss_centerness",
}
REFERENCES = {
    "retinanet": Reference(
        "retinanet",
        RetinaNetHead,
        {"loss_cls": "loss_class", "loss_bbox": "loss_box"},
        ("boxes", "empty", "no_boxes"),
        nms=0.5,
    ),
    "gfl": Reference(
        "gfl",
        GFLHead,
        {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_dfl": "loss_distribution"},
        ("boxes", "empty", "no_boxes"),
    ),
    "gfl-4-bins": Reference(
        "gfl",
        GFLHead,
        {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_dfl": "loss_distribution"},
        ("reg_max4_boxes",),
        {"max_distance": 4},
        "inference_reg_max4",
        ("weights", "weights_reg_max4"),
    ),
    "paa": Reference(
        "paa",
        PAAHead,
        {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_iou": "loss_iou"},
        ("boxes", "empty", "no_boxes", "boxes_factor1", "ties", "collapse"),
        {"score_voting": False},
    ),
    "fcos": Reference(
        "fcos",
        FCOSHead,
        FCOS_LOSSES,
        ("tricks_boxes", "tricks_empty", "tricks_no_boxes"),
        inference="inference_tricks",
        recorded=torch.relu,
    ),
    "fcos-sizes": Reference(
        "fcos",
        FCOSHead,
        FCOS_LOSSES,
        ("tricks_ranges_boxes",),
        {"max_sizes": (16, 32, 48, 64)},
        inference=None,
    ),
    "fcos-plain": Reference(
        "fcos",
        FCOSHead,
        FCOS_LOSSES,
        ("plain_boxes", "plain_empty", "plain_no_boxes"),
        {
            "center_radius": None,
            "box_activation": "exp",
            "quality_tower": "class",
            "conv_bias": False,
        },
        "inference_plain",
        without="convs.0.conv.bias",
        nms=0.5,
        recorded=torch.exp,
    ),
}
STEPS = [(name, step) for name, reference in REFERENCES.items() for step in reference.training]


@cache
def maps_and_sizes():
    inputs = load_file(DATA / "inputs.safetensors")
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    return [inputs[f"feat.{level}"] for level in range(5)], sizes


class Step:
    """One recorded training step: its numbers, and what our head makes of its ground truth."""

    def __init__(self, name, step):
        self.reference = REFERENCES[name]
        self.data = self.reference.load(f"train_{step}")
        path = DATA / self.reference.folder / f"train_{step}.json"
        self.json = json.loads(path.read_text())
        factor = 1.0 if "factor1" in step else 12.0
        self.head = self.reference.head(loss_weight=factor)
        maps, self.sizes = maps_and_sizes()
        self.maps = [m.clone().requires_grad_() for m in maps]
        self.gt = [
            Instances(
                size,
                gt_boxes=Boxes(self.data[f"gt_boxes.{i}"]),
                gt_classes=self.data[f"gt_labels.{i}"].long(),
            )
            for i, size in enumerate(self.sizes)
        ]
        self.levels = self.head.anchors(self.maps)
        self.anchors = torch.cat(self.levels)
        self.valid = self.head.anchors.valid(self.maps, self.sizes)
        self.predictions = self.head.predict(self.maps)
        with torch.no_grad():
            truth = PaddedTruth.from_instances(self.gt)
            self.targets = self.head.assign(self.levels, self.valid, self.predictions, truth)
        self.output = self.head(self.maps, self.sizes, self.gt)

    def positive(self, image, kind="anchor"):
        """Recorded indices of the positives of an image."""
        return self.data[f"pos_{kind}.{image}"].long()


@cache
def step_of(name, step):
    return Step(name, step)


@pytest.fixture(params=STEPS, ids="-".join)
def step(request):
    return step_of(*request.param)


def of_heads(*folders):
    """The steps of some heads."""
    chosen = [s for s in STEPS if REFERENCES[s[0]].folder in folders]
    return pytest.mark.parametrize("step", chosen, ids="-".join, indirect=True)


def flat(data, name, per_cell):
    """Recorded maps (N, per_cell * width, h, w) of all levels in the order of the anchors."""
    maps = [data[f"{name}.{level}"] for level in range(5)]
    return torch.cat(
        [
            m.permute(0, 2, 3, 1).reshape(len(m), m.shape[2] * m.shape[3] * per_cell, -1)
            for m in maps
        ],
        dim=1,
    )


# ---------------------------------------------------------------- outputs and detections


@pytest.fixture(params=[name for name, r in REFERENCES.items() if r.inference])
def reference(request):
    return REFERENCES[request.param]


@torch.no_grad()
def test_raw_outputs_and_anchors(reference):
    head, data = reference.head(), reference.load(reference.inference)
    maps, _ = maps_and_sizes()
    outputs, per_cell = head.predict(maps), head.anchors.num_per_cell
    torch.testing.assert_close(outputs.logits, flat(data, "cls", per_cell), atol=1e-4, rtol=0)
    regression = reference.recorded(outputs.regression)
    torch.testing.assert_close(regression, flat(data, "reg", per_cell), atol=1e-4, rtol=1e-4)
    recorded = [name for name in QUALITIES if f"{name}.0" in data]
    assert bool(recorded) == (outputs.quality is not None)
    for name in recorded:
        torch.testing.assert_close(
            outputs.quality, flat(data, name, per_cell)[..., 0], atol=1e-4, rtol=0
        )
    anchors, expected = torch.cat(head.anchors(maps)), data["prior_first_last"]
    anchors = anchors[[0, 1, 2, 3, 9, -1]]
    if expected.shape[1] == 2:  # points
        anchors = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(anchors, expected, atol=1e-4, rtol=0)


MODES = {
    "own": {},
    "pre50": {"candidates_per_level": 50},
    "thr50": {"score_threshold": 0.5},
}


def by_class(scores, classes):
    """Order by class, and by falling score within."""
    order = scores.argsort(descending=True, stable=True)
    return order[classes[order].argsort(stable=True)]


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_detections(reference, mode):
    data = reference.load(reference.inference)
    options = {"score_threshold": 0.05, "nms_threshold": reference.nms} | MODES[mode]
    check_detections(reference.head(**options), data, mode)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_detections_with_score_voting(mode):
    reference = REFERENCES["paa"]
    head = reference.head(score_threshold=0.05, nms_threshold=0.6, score_voting=True)
    for name, value in MODES[mode].items():
        setattr(head, name, value)
    check_detections(head, reference.load("inference"), f"{mode}_vote")


def check_detections(head, data, mode):
    for i, (got, size) in enumerate(zip(head.inference(*maps_and_sizes()), maps_and_sizes()[1])):
        expected = {k: data[f"det.{mode}.{i}.{k}"] for k in ("boxes", "scores", "labels")}
        assert got.image_size == size and (got.scores.diff() <= 0).all()
        order = by_class(expected["scores"], expected["labels"])
        got = got[by_class(got.scores, got.pred_classes)]
        assert got.pred_classes.tolist() == expected["labels"][order].tolist()
        torch.testing.assert_close(got.scores, expected["scores"][order], atol=1e-4, rtol=0)
        torch.testing.assert_close(
            got.pred_boxes.tensor, expected["boxes"][order], atol=1e-2, rtol=0
        )


# ---------------------------------------------------------------- assignment


def test_labels_and_matched_boxes(step):
    kind = "point" if "pos_point.0" in step.data else "anchor"
    for i, labels in enumerate(step.targets.labels):
        weights = step.data.get(f"label_weights.{i}", step.valid[i])
        expected = step.data[f"labels.{i}"].long().masked_fill(~weights.bool(), -1)
        assert torch.equal(labels, expected)
        positive = (expected >= 0) & (expected < NUM_CLASSES)
        index = step.positive(i, kind)
        assert torch.equal(positive.nonzero().squeeze(1), index)
        matched = step.data[f"pos_gt.{i}"].long()
        assert torch.equal(step.targets.boxes[i][index], step.gt[i].gt_boxes.tensor[matched])
        assert not step.targets.boxes[i][~positive].any()


@of_heads("retinanet")
def test_targets_and_decoded_boxes(step):
    """The reference decodes before the loss, so that its target is the box itself."""
    for i in range(2):
        index = step.positive(i)
        assert torch.equal(step.targets.boxes[i][index], step.data[f"pos_target.{i}"])
        check_decoded(step, i, index)


@of_heads("gfl")
def test_distributions_quality_and_weights(step):
    for i in range(2):
        index = step.positive(i)
        if not len(index):
            continue
        anchors, boxes = step.anchors[index], step.targets.boxes[i][index]
        strides = step.head.strides_of(anchors)
        assert torch.equal(strides, step.data[f"pos_stride.{i}"].float())
        bins = (distances_to_sides(anchors, boxes) / strides[:, None]).clamp(
            0, step.head.max_distance - 0.1
        )
        torch.testing.assert_close(bins, step.data[f"pos_ltrb.{i}"], atol=1e-4, rtol=0)
        check_decoded(step, i, index, strides[:, None])
        decoded = step.head.decode(step.predictions.regression[i][index], anchors)
        torch.testing.assert_close(
            broadcast_iou(decoded, boxes), step.data[f"pos_quality.{i}"], atol=1e-4, rtol=0
        )
        weight = step.predictions.logits[i][index].sigmoid().amax(dim=1)
        torch.testing.assert_close(weight, step.data[f"pos_weight.{i}"], atol=1e-4, rtol=0)


@of_heads("fcos")
def test_distances_and_centerness(step):
    unit = step.head.box_activation == "relu"  # in strides then
    for i in range(2):
        index = step.positive(i, "point")
        if not len(index):
            continue
        anchors, boxes = step.anchors[index], step.targets.boxes[i][index]
        distances = distances_to_sides(anchors, boxes)
        if unit:
            distances = distances / step.head.strides_of(anchors)[:, None]
        torch.testing.assert_close(distances, step.data[f"pos_ltrb.{i}"], atol=1e-4, rtol=0)
        torch.testing.assert_close(
            centerness(anchors, boxes), step.data[f"pos_centerness.{i}"], atol=1e-4, rtol=0
        )


@of_heads("paa")
def test_first_assignment_and_losses_of_its_anchors(step):
    head, truth = step.head, PaddedTruth.from_instances(step.gt)
    matches = head.first_matches(step.anchors, step.valid, truth)
    targets = head.matched_targets(matches, step.valid, truth)
    losses = head.anchor_losses(step.anchors, step.predictions, targets)
    for i in range(2):
        index = step.data[f"first.pos_anchor.{i}"].long()
        assert torch.equal((matches[i] >= 0).nonzero().squeeze(1), index)
        assert matches[i][index].tolist() == step.data[f"first.pos_gt.{i}"].tolist()
        labels = targets.labels[i].where(step.valid[i], NUM_CLASSES)
        assert labels.tolist() == step.data[f"first.labels.{i}"].tolist()
        torch.testing.assert_close(
            losses[i][index], step.data[f"first.loss.{i}"], atol=1e-4, rtol=1e-4
        )


@of_heads("paa")
@torch.no_grad()
def test_candidates_and_their_mixtures(step):
    head, truth = step.head, PaddedTruth.from_instances(step.gt)
    matches = head.first_matches(step.anchors, step.valid, truth)
    targets = head.matched_targets(matches, step.valid, truth)
    losses, index = best_candidates(
        head.anchor_losses(step.anchors, step.predictions, targets),
        matches,
        [len(level) for level in step.levels],
        truth.boxes.shape[1],
        head.num_candidates,
    )
    known = [(m["image"], m["gt"], m) for m in step.json["mixtures"]]
    assert [(i, g) for i, g, _ in known] == [
        (i, g) for i, count in enumerate(truth.counts) for g in range(count)
    ]
    for i, g, facts in known:
        real = losses[i, g].isfinite()
        assert real.sum() == facts["candidates"]
        if not facts["fitted"]:
            continue
        expected = {
            k: step.data[f"mixture.{i}.{g}.{k}"]
            for k in ("anchor", "loss", "component", "log_density", "params")
        }
        x = losses[i, g][real]
        assert index[i, g][real].tolist() == expected["anchor"].tolist()
        torch.testing.assert_close(x, expected["loss"].float(), atol=1e-4, rtol=1e-4)
        # with the others filled up, as in a batch
        x = losses[i, g, None].nan_to_num(posinf=0).double().numpy()
        mixture = fit_mixtures(x, real[None].numpy())
        params = torch.from_numpy(np.concatenate([mixture.weights, mixture.means]))
        torch.testing.assert_close(params, expected["params"][:2].double(), atol=1e-4, rtol=1e-4)
        variances = torch.from_numpy(mixture.variances[0])
        torch.testing.assert_close(variances, expected["params"][2].double(), atol=1e-4, rtol=1e-3)
        component = mixture.log_joint(x)[0][real.numpy()].argmax(axis=1)
        assert component.tolist() == expected["component"].tolist()
        density = torch.from_numpy(mixture.log_density(x)[0][real.numpy()])
        torch.testing.assert_close(density, expected["log_density"].double(), atol=1e-2, rtol=0)
        assert (step.targets.boxes[i] == truth.boxes[i, g]).all(1).sum() == facts["positives"]


@of_heads("paa")
def test_ious_and_decoded_boxes(step):
    for i in range(2):
        if len(index := step.positive(i)):
            check_decoded(step, i, index)
            boxes = step.head.decode(step.predictions.regression[i][index], step.anchors[index])
            iou = broadcast_iou(boxes, step.targets.boxes[i][index])
            torch.testing.assert_close(iou, step.data[f"pos_iou.{i}"], atol=1e-4, rtol=0)


def check_decoded(step, image, index, unit=1.0):
    decoded = step.head.decode(step.predictions.regression[image][index], step.anchors[index])
    expected = step.data[f"pos_decoded.{image}"]
    torch.testing.assert_close(decoded / unit, expected, atol=1e-2, rtol=1e-4)


# ---------------------------------------------------------------- losses and gradients


def test_losses(step):
    losses = normalize(step.output.losses)
    assert set(losses) == set(step.reference.losses.values())
    for official, name in step.reference.losses.items():
        expected = step.json["loss_sums"][official]
        assert losses[name].item() == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_gradients(step):
    total = sum(normalize(step.output.losses).values())
    assert total.item() == pytest.approx(step.json["total_loss"], rel=1e-4)
    parameters = dict(step.head.named_parameters())
    inputs = [*parameters.values(), *step.maps]
    gradients = torch.autograd.grad(total, inputs, retain_graph=True)  # all of them are there
    expected = ours(step.json["grad_norms"], step.head)
    assert expected.keys() == parameters.keys()
    for name, gradient in zip(parameters, gradients):
        norm = expected[name].item()
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), name
    for level, gradient in enumerate(gradients[len(parameters) :]):
        norms = [gradient.norm(), *gradient.flatten(1).norm(dim=1)]
        each = [step.json["feature_grad_norms"][level]]
        each += step.json["feature_grad_norms_per_image"][level]
        assert [n.item() for n in norms] == pytest.approx(each, rel=1e-3, abs=1e-4), level
