"""Co-DINO against the reference numbers of the released implementation.

The fixture is a shrunken model with every weight random; see `tests/golden.py`.
"""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from golden import batch, build, co_dino_config, settings, tensors

from co_detr.checkpoint.official import official_table
from co_detr.checkpoint.rename import rename
from co_detr.modeling.assignment import GroundTruth, MatchingProblem
from co_detr.modeling.aux_heads.truth import BACKGROUND, IGNORED, PaddedTruth
from co_detr.modeling.base_detector import padding_mask
from co_detr.modeling.queries import customized, denoising
from co_detr.modeling.queries.group import QueryGroup, visibility
from co_detr.ops.boxes import inverse_sigmoid

FOLDER = "co_dino_tiny"
CLOSE = dict(atol=1e-4, rtol=1e-4)


def check(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **(CLOSE | tolerance))


@pytest.fixture(scope="module")
def expected():
    return tensors(FOLDER, "inference")


@pytest.fixture(scope="module")
def model():
    return build(co_dino_config(), FOLDER)


@pytest.fixture(scope="module")
def run(model):
    """Everything an evaluation step computes on the way."""
    hidden, centers = [], []

    def record(_layer, inputs, output):
        hidden.append(output)
        centers.append(inputs[2])

    hooks = [layer.register_forward_hook(record) for layer in model.decoder.layers]
    with torch.no_grad():
        images, sizes = model.preprocess(batch(FOLDER))
        features = model.backbone(images)
        neck = model.neck(features)
        memory = model.encoder(neck, padding_mask(images, sizes))
        proposals = model.proposals(memory)
        (group,) = model.query_sources["matching"](memory, proposals)
        predictions = model.decoder([group], memory)["matching"]
        maps = model.pyramid(memory)
        hidden = model.decoder.norm(torch.stack(hidden))
    for hook in hooks:
        hook.remove()
    return dict(
        sizes=sizes,
        features=features,
        neck=neck,
        memory=memory,
        proposals=proposals,
        group=group,
        hidden=hidden,
        centers=centers,
        predictions=predictions,
        maps=maps,
    )


def test_backbone_and_neck(run, expected):
    for level, name in enumerate(("res2", "res3", "res4", "res5")):
        check(run["features"][name], expected[f"backbone.{level}"])
    assert len(run["neck"]) == 5
    for level in (1, 2, 3, 4):
        check(run["neck"][level], expected[f"neck.{level}"])


def test_masks_and_valid_ratios(run, expected, model):
    memory = run["memory"]
    assert memory.spatial_shapes == [tuple(s) for s in expected["spatial_shapes"].tolist()]
    masks = torch.cat([expected[f"mask.{level}"].flatten(1) for level in range(5)], dim=1)
    assert torch.equal(memory.padding, masks)
    check(memory.valid_ratios, expected["valid_ratios"], atol=1e-6)
    check(model.encoder.position_encoding(expected["mask.1"]), expected["pos_enc.1"])
    check(model.encoder._references(memory), expected["enc_reference_points"], atol=1e-6)


def test_memory_and_pyramid(run, expected):
    check(run["memory"].tokens, expected["memory"])
    assert len(run["maps"]) == 6
    # A 1x1 map, which group norm sees in groups of two values: where these are nearly equal, noise
    # of 1e-6 grows a hundredfold. In float64 the difference from the reference is 3e-5.
    check(run["maps"][-1], expected["pyramid_extra"], atol=5e-4)


def test_proposals(run, expected, model):
    proposals = run["proposals"]
    base = model.proposals.base_boxes(run["memory"])
    check(base, expected["enc_base_proposals_unact"])
    assert torch.equal(proposals.index, expected["topk_index"])
    check(proposals.logits, expected["topk_logits"])
    rows = proposals.index[..., None]
    check(proposals.logits, expected["enc_cls_logits"].gather(1, rows.expand(-1, -1, 7)))
    boxes = expected["enc_coord_unact"].sigmoid().gather(1, rows.expand(-1, -1, 4))
    check(proposals.boxes, boxes)
    check(proposals.reference, expected["dec_init_reference"])


def test_decoder(run, expected):
    check(run["group"].content, expected["dec_query"])
    assert run["group"].position is None
    check(run["hidden"], expected["dec_hidden"])
    check(run["predictions"].logits, expected["cls_logits"])
    check(run["predictions"].boxes, expected["boxes"])
    # references reach a layer as fractions of the padded levels; here those of the first level
    for layer, centers in enumerate(run["centers"]):
        reference = expected["dec_references"][layer][..., :2]
        check(centers[:, :, 0], reference * run["memory"].valid_ratios[:, :1])


def test_prediction_is_not_the_refined_reference(expected):
    """Refinement reads the output before the norm, the prediction after; both are in the fixture,
    so the agreement of `test_decoder` tells the two apart."""
    assert (expected["boxes"] - expected["dec_references"][1:]).abs().max() > 0.01


def test_outputs_of_the_auxiliary_heads(run, expected, model):
    atss, rcnn = model.aux_heads["atss"], model.aux_heads["rcnn"]
    with torch.no_grad():
        dense = atss.predict(run["maps"])
        rpn = rcnn.rpn.predict(run["maps"])
        proposals = rcnn.rpn.inference(run["maps"], run["sizes"])
        roi = rcnn.box_head(run["maps"], [p.proposal_boxes for p in proposals])

    def flat(name, levels, width):
        maps = [expected[f"{name}.{level}"] for level in levels]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(2, -1, width) for m in maps], dim=1)

    check(dense.logits, flat("atss_cls", range(6), 7))
    check(dense.regression, flat("atss_reg", range(6), 4))
    check(dense.quality[..., None], flat("atss_ctr", range(6), 1))
    recorded = slice(16 * 23 * 9, None)  # the finest level of the RPN is not in the fixture
    check(rpn[0][:, recorded, None], flat("rpn_cls", range(1, 6), 1))
    check(rpn[1][:, recorded], flat("rpn_reg", range(1, 6), 4))
    for i, found in enumerate(proposals):
        want = expected[f"two_stage.proposals.{i}"]
        check(found.proposal_boxes.tensor, want[:, :4], atol=1e-2)
        check(found.objectness_logits.sigmoid(), want[:, 4])
    check(roi[0], expected["two_stage.cls_score"])
    check(roi[1].flatten(1), expected["two_stage.bbox_pred"])


@pytest.mark.parametrize(
    "branch, name", [("matching", "detr"), ("atss", "one_stage"), ("rcnn", "two_stage")]
)
def test_detections_of_each_branch(model, expected, branch, name, monkeypatch):
    monkeypatch.setattr(model, "eval_branch", branch)
    with torch.no_grad():
        results = model(batch(FOLDER))
    for image, result in enumerate(results):
        found, want = result["instances"], f"det.{name}.{image}"
        assert torch.equal(found.pred_classes, expected[f"{want}.labels"])
        check(found.scores, expected[f"{want}.scores"])
        check(found.pred_boxes.tensor, expected[f"{want}.boxes"], atol=1e-2)


# ---------------------------------------------------------------- a training step


def first_in_order(like):
    """Stands in for random numbers, so that a "random" subset is the first candidates."""
    return torch.linspace(0.9, 0.1, like.shape[1], dtype=torch.float64).expand(like.shape)


class Step:
    """A training step of the fixture, and what our model computes up to its predictions."""

    def __init__(self, name, **changes):
        cfg = co_dino_config()
        for key, value in changes.items():
            cfg.query_sources.customized[key] = value
        self.model = build(cfg, FOLDER).train()
        self.data = tensors(FOLDER, "inference") | tensors(FOLDER, name)
        self.reference = settings(FOLDER, name)
        self.inputs = batch(FOLDER, self.data)
        instances = [x["instances"] for x in self.inputs]
        self.memory, self.sizes = self.model.encode(self.inputs)
        self.maps = self.model.pyramid(self.memory)
        self.truth = GroundTruth.from_instances(instances, self.sizes)
        self.proposals = self.model.proposals(self.memory)
        self.aux = self.model.assist(self.memory, self.sizes, instances)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(customized, "random_rank", first_in_order)
            groups = [
                group
                for source in self.model.query_sources.values()
                for group in source(self.memory, self.proposals, self.truth, self.aux)
            ]
            self.losses = self.model(self.inputs)
        self.groups = {group.name: group for group in groups}
        self.predictions = self.model.decoder(groups, self.memory)

    def expected_losses(self):
        return {
            OUR_NAMES[name]: sum(value) if isinstance(value, list) else value
            for name, value in self.reference["losses"].items()
            if name != "acc0"  # an accuracy
        }

    def customized(self, head):
        """What the fixture has of the customized queries of a head."""
        prefix = f"aux{self.model.query_sources['customized'].heads.index(head)}."
        return {k.removeprefix(prefix): v for k, v in self.data.items() if k.startswith(prefix)}


OUR_NAMES = {
    "enc_loss_cls": "encoder/loss_class",
    "enc_loss_bbox": "encoder/loss_box",
    "enc_loss_iou": "encoder/loss_giou",
    "loss_rpn_cls": "rcnn/loss_rpn_class",
    "loss_rpn_bbox": "rcnn/loss_rpn_box",
    "loss_cls0": "rcnn/loss_class",
    "loss_bbox0": "rcnn/loss_box",
    "loss_cls1": "atss/loss_class",
    "loss_bbox1": "atss/loss_box",
    "loss_centerness1": "atss/loss_centerness",
}
for _theirs, _ours in (("cls", "class"), ("bbox", "box"), ("iou", "giou")):
    for _layer, _prefix in enumerate(("d0.", "")):
        OUR_NAMES[f"{_prefix}loss_{_theirs}"] = f"matching/loss_{_ours}_{_layer}"
        OUR_NAMES[f"{_prefix}dn_loss_{_theirs}"] = f"denoising/loss_{_ours}_{_layer}"
        OUR_NAMES[f"{_prefix}loss_{_theirs}_aux0"] = f"customized/rcnn/loss_{_ours}_{_layer}"
        OUR_NAMES[f"{_prefix}loss_{_theirs}_aux1"] = f"customized/atss/loss_{_ours}_{_layer}"


@pytest.fixture(scope="module")
def negatives():
    return Step("train_neg_pad")


@pytest.fixture(scope="module")
def masked():
    return Step("train_zero_pad", padding="mask", max_queries=300)


@pytest.fixture(params=["negatives", "masked"])
def step(request):
    return request.getfixturevalue(request.param)


def test_assignments_of_atss(step):
    anchors = step.model.aux_heads["atss"].anchors.valid(step.maps, step.sizes)
    for i, samples in enumerate(step.aux["atss"].samples):
        positive = (samples.gt_classes < 7).nonzero().squeeze(1)
        counts = [len(samples), anchors[i].sum().item(), len(positive)]
        assert counts == step.data[f"atss.count.{i}"].tolist()
        assert torch.equal(positive, step.data[f"atss.pos_anchor.{i}"])
        check(samples.proposal_boxes.tensor[positive], step.data[f"atss.pos_anchor_box.{i}"])
        matched = step.data[f"gt_boxes.{i}"][step.data[f"atss.pos_gt.{i}"]]
        assert torch.equal(samples.gt_boxes.tensor[positive], matched)


def test_assignments_of_the_rpn(step):
    rpn = step.model.aux_heads["rcnn"].rpn
    anchors = Boxes(torch.cat(rpn.anchors(step.maps)))
    check(anchors.tensor[[0, 1, 2, 3, 9, -1]], step.data["rpn.anchor_first_last"])
    valid = rpn.anchors.valid(step.maps, step.sizes)
    truth = PaddedTruth.from_instances([x["instances"] for x in step.inputs])
    for i, matches in enumerate(rpn.match(anchors.tensor, valid, truth)):
        boxes = step.data[f"gt_boxes.{i}"]
        counts = [len(anchors), valid[i].sum().item()]
        kinds = (matches >= 0, matches == BACKGROUND, matches == IGNORED)
        counts += [(kind & valid[i]).sum().item() for kind in kinds]
        assert counts == step.data[f"rpn.count.{i}"].tolist()
        positive = (matches >= 0).nonzero().squeeze(1)
        assert torch.equal(positive, step.data[f"rpn.pos_anchor.{i}"])
        assert torch.equal(matches[positive], step.data[f"rpn.pos_gt.{i}"])
        deltas = rpn.box_transform.get_deltas(anchors.tensor[positive], boxes[matches[positive]])
        check(deltas, step.data[f"rpn.pos_delta_target.{i}"])


def test_samples_of_the_roi_head(step):
    for i, samples in enumerate(step.aux["rcnn"].samples):
        samples = samples[samples.gt_classes >= 0]
        count, negative = step.data[f"roi.count.{i}"].tolist()
        assert (samples.gt_classes < 7).tolist() == [True] * count + [False] * negative
        boxes = samples.proposal_boxes.tensor[:count]
        candidates = [step.data[f"gt_boxes.{i}"], step.data[f"rpn.proposals.{i}"][:, :4]]
        check(boxes, torch.cat(candidates)[step.data[f"roi.pos_index.{i}"]], atol=1e-2)
        check(boxes, step.data[f"roi.pos_boxes.{i}"], atol=1e-2)
        matched = step.data[f"gt_boxes.{i}"][step.data[f"roi.pos_gt.{i}"]]
        assert torch.equal(samples.gt_boxes.tensor[:count], matched)
        assert not samples.has("features")


def test_matching(step):
    matching = step.predictions["matching"]
    matched = step.model.criterion.matcher(
        {
            "matching": MatchingProblem(matching.logits, matching.boxes),
            "encoder": MatchingProblem(step.proposals.logits[None], step.proposals.boxes[None]),
        },
        step.truth,
    )
    check(step.proposals.logits, step.data["main.enc_topk_logits"])
    check(step.proposals.boxes, step.data["main.enc_topk_boxes"])
    layers = {"layer0": matched["matching"][0], "layer1": matched["matching"][1]}
    for name, objects in (layers | {"enc": matched["encoder"][0]}).items():
        start = 0
        for i, classes in enumerate(step.truth.classes):
            query = objects[i].ge(0).nonzero().squeeze(1)
            want, order = step.data[f"hungarian.{name}.{i}.query"].sort()
            assert torch.equal(query, want)
            gt = step.data[f"hungarian.{name}.{i}.gt"][order]
            assert torch.equal(objects[i, query] - start, gt)
            start += len(classes)


def test_denoising_queries_of_the_step(step):
    group = step.groups["denoising"]
    check(group.content, step.data["dn.query_label"])
    check(group.reference, step.data["dn.query_box_unact"].sigmoid())
    together = dense_visibility([group, step.groups["matching"]])
    assert torch.equal(~together, step.data["dn.attn_mask"].bool())
    found = [step.predictions[name] for name in ("denoising", "matching")]
    check(torch.cat([p.logits for p in found], dim=2), step.data["main.cls_logits"])
    check(torch.cat([p.boxes for p in found], dim=2), step.data["main.boxes"])


@pytest.mark.parametrize("head", ["rcnn", "atss"])
def test_customized_queries_padded_with_negatives(negatives, head):
    group, want = negatives.groups[f"customized/{head}"], negatives.customized(head)
    assert torch.equal(group.targets.classes, want["labels"])
    assert group.valid.all() and want["label_weights"].eq(1).all()
    positive = group.targets.classes < 7
    assert torch.equal(positive.float(), want["box_weights"])
    check(group.targets.boxes[positive], want["targets"][positive])
    check(group.reference, want["coords"])
    check(group.content, want["dec_query"])
    check(negatives.predictions[group.name].logits, want["cls_logits"])
    check(negatives.predictions[group.name].boxes, want["boxes"])


@pytest.mark.parametrize("head", ["rcnn", "atss"])
def test_customized_queries_padded_with_masked_ones(masked, head):
    """The release lets padding act as keys here. With the padding masked, as it is meant to be,
    images without padding must agree throughout, the other one up to the decoder."""
    group, want = masked.groups[f"customized/{head}"], masked.customized(head)
    assert torch.equal(group.targets.classes, want["labels"])
    assert torch.equal(group.valid.float(), want["label_weights"])
    check(group.targets.boxes[group.valid], want["targets"][group.valid])
    check(group.reference[group.valid], want["coords"][group.valid])
    check(group.content[group.valid], want["dec_query"][group.valid])
    full = group.valid.all(1)
    assert full.sum() == 1
    found = masked.predictions[group.name]
    check(found.logits[:, full], want["cls_logits"][:, full])
    check(found.boxes[:, full], want["boxes"][:, full])


def test_losses_and_gradients_with_negatives_as_padding(negatives):
    wanted = negatives.expected_losses()
    assert set(negatives.losses) == set(wanted)
    for name, value in wanted.items():
        assert negatives.losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name
    total = sum(negatives.losses.values())
    assert total.item() == pytest.approx(negatives.reference["total_loss"], rel=1e-4)
    total.backward()

    model = negatives.model
    source = tensors(FOLDER, "weights")
    renamed = rename(source, official_table(model), model.state_dict())[1]
    norms = negatives.reference["grad_norms"]
    expected = {ours: norms[theirs] for theirs, ours in renamed if theirs in norms}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert expected.keys() == trained.keys()
    for name, parameter in trained.items():
        norm = parameter.grad.norm().item()
        assert norm == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name


def test_losses_with_masked_padding(masked):
    """All but those of the customized queries, whose padding the release does not mask."""
    wanted = masked.expected_losses()
    assert set(masked.losses) == set(wanted)
    for name, value in wanted.items():
        if not name.startswith("customized/"):
            assert masked.losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


# ---------------------------------------------------------------- denoising queries with noise


def dense_visibility(groups):
    """(Q, Q) bool over all queries of the groups, True = visible."""
    total = sum(group.num_queries for group in groups)
    visible = torch.zeros(total, total, dtype=torch.bool)
    for span in visibility(groups):
        columns = torch.cat([torch.arange(total)[keys] for keys in span.keys])
        rows = torch.arange(total)[span.queries]
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool) if span.mask is None else span.mask
        assert mask.shape[0] == 1  # the same for all images
        visible[rows[:, None], columns] = mask[0, 0].expand(len(rows), len(columns))
    return visible


@pytest.mark.parametrize("case", "abcd")
def test_denoising_queries_with_recorded_noise(model, case, monkeypatch):
    data = {k[2:]: v for k, v in tensors(FOLDER, "dn_queries").items() if k.startswith(f"{case}.")}
    options = settings(FOLDER, "dn_queries")[case]
    sizes = [tuple(size) for size in options["image_sizes"]]
    instances = [
        Instances(size, gt_boxes=Boxes(data[f"gt_boxes.{i}"]), gt_classes=data[f"gt_labels.{i}"])
        for i, size in enumerate(sizes)
    ]
    truth = GroundTruth.from_instances(instances, sizes)
    counts = [len(x) for x in instances]
    num_blocks = options["num_dn_group"]

    def from_flat(flat, shape):
        """The release draws for all objects of all images, once per half of each block."""
        out = torch.zeros(shape, dtype=flat.dtype)
        halves = flat.unflatten(0, (num_blocks, 2, sum(counts)))
        for i, part in enumerate(halves.split(counts, dim=2)):
            out[i, :, :, : counts[i]] = part
        return out

    def recorded(classes, num_classes):
        everything = 2 * num_blocks * sum(counts)
        chance = data.get("draw_label_p", torch.ones(everything))
        label = torch.zeros(everything, dtype=torch.int64)
        label[chance < options["label_noise_scale"] / 2] = data.get("draw_new_label", label[:0])
        return denoising.DenoisingNoise(
            chance=from_flat(chance, classes.shape),
            label=from_flat(label, classes.shape),
            direction=from_flat(2 * data["draw_sign01"] - 1, (*classes.shape, 4)),
            amount=from_flat(data["draw_part"], (*classes.shape, 4)),
        )

    monkeypatch.setattr(denoising, "draw_noise", recorded)
    source = denoising.DenoisingQueries(
        num_classes=7,
        embed_dim=64,
        num_queries=options["group_cfg"].get("num_dn_queries", 100),
        num_blocks=options["group_cfg"]["num_groups"],
        label_noise=options["label_noise_scale"],
        box_noise=options["box_noise_scale"],
    )
    embedding = model.query_sources["denoising"].label_embedding.weight.detach()
    source.load_state_dict({"label_embedding.weight": embedding})
    (group,) = source(None, None, truth)

    assert (group.num_queries, group.num_blocks) == (options["pad_size"], num_blocks)
    label = data["query_label_id"]
    expected = embedding[label.clamp(min=0)] * (label >= 0)[..., None]
    check(group.content, expected, atol=1e-6)
    check(inverse_sigmoid(group.reference, 1e-5), data["query_box_unact"])
    matching = QueryGroup("matching", torch.zeros(3, 30, 64), torch.ones(3, 30, 4), None)
    blocked = ~dense_visibility([group, matching])
    assert torch.equal(blocked, data["attn_mask"].bool())
