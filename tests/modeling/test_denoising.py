"""Contrastive denoising queries by hand, and their place in the decoder and in training."""

import dataclasses
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from golden import batch, build, co_dino_config

from co_detr.modeling.assignment import GroundTruth, HungarianMatcher
from co_detr.modeling.criterion import SetCriterion
from co_detr.modeling.losses import QualityFocalLoss, normalize
from co_detr.modeling.queries import denoising
from co_detr.modeling.queries.denoising import DenoisingNoise, DenoisingQueries, draw_noise
from co_detr.modeling.transformer.decoder import Predictions

CLASSES = 7
BOX = [0.5, 0.5, 0.4, 0.2]


def truth(*images):
    """Ground truth of images given as lists of (class, box)."""
    return GroundTruth(
        [torch.tensor([c for c, _ in objects], dtype=torch.int64) for objects in images],
        [torch.tensor([b for _, b in objects]).reshape(-1, 4) for objects in images],
        torch.tensor([[100.0, 50.0, 100.0, 50.0]]).expand(len(images), 4),
    )


def make(**options):
    return DenoisingQueries(**(dict(num_classes=CLASSES, embed_dim=4) | options))


def noise_of(monkeypatch, *, chance=1.0, label=0, direction=(1, 1, 1, 1), amount=0.0):
    """Replace the random draws by the same values for every object."""

    def draw(classes, num_classes):
        full = (*classes.shape, 4)
        return DenoisingNoise(
            torch.full(classes.shape, chance),
            torch.full_like(classes, label),
            torch.tensor(direction, dtype=torch.float32).expand(full),
            torch.full(full, amount),
        )

    monkeypatch.setattr(denoising, "draw_noise", draw)


def test_layout_of_the_queries():
    other = [0.2, 0.6, 0.1, 0.3]
    source = make(num_queries=4, label_noise=0.0, box_noise=0.0)
    (group,) = source(None, None, truth([(3, BOX), (1, other)], [(5, other)]))
    # 4 // 2 objects = 2 blocks, each with both objects twice
    assert (group.name, group.num_queries, group.num_blocks) == ("denoising", 8, 2)
    assert group.sees == ("matching",)
    assert group.valid is None and group.position is None
    assert group.targets.classes.tolist() == [[3, 1, 7, 7] * 2, [5, 7, 7, 7] * 2]

    weight = source.label_embedding.weight
    assert torch.equal(group.content[0], weight[[3, 1] * 4])
    assert torch.equal(group.content[1, ::2], weight[[5] * 4])
    assert not group.content[1, 1::2].any()
    boxes = torch.tensor([BOX, other])
    torch.testing.assert_close(group.reference[0], boxes.repeat(4, 1))
    torch.testing.assert_close(group.reference[1, ::2], boxes[1].expand(4, 4))
    assert torch.equal(group.reference[1, 1::2], torch.full((4, 4), 0.5))
    assert torch.equal(group.targets.boxes[0], boxes.repeat(4, 1))


@pytest.mark.parametrize(
    "options, objects, blocks",
    [
        (dict(num_queries=100), 3, 33),
        (dict(num_queries=100), 150, 1),
        (dict(num_blocks=5), 3, 5),
        (dict(num_blocks=5), 150, 5),
    ],
)
def test_number_of_blocks(options, objects, blocks):
    (group,) = make(**options)(None, None, truth([(0, BOX)] * objects, [(0, BOX)]))
    assert group.num_blocks == blocks
    assert group.num_queries == blocks * 2 * objects


@pytest.mark.parametrize(
    "scale, light, heavy",
    [
        # Corners (.3, .4, .7, .6), half sizes .2 and .1; each side moves inwards by half of that,
        # the heavy copy by 1.5 times that, which makes the sides swap: a size of 0.
        (1.0, [0.5, 0.5, 0.2, 0.1], [0.5, 0.5, 0.0, 0.0]),
        (0.4, [0.5, 0.5, 0.32, 0.16], [0.5, 0.5, 0.16, 0.08]),
    ],
)
def test_box_noise(monkeypatch, scale, light, heavy):
    noise_of(monkeypatch, direction=(1, 1, -1, -1), amount=0.5)
    (group,) = make(num_blocks=1, box_noise=scale)(None, None, truth([(0, BOX)]))
    found = group.reference[0]
    torch.testing.assert_close(found, torch.tensor([light, heavy]), atol=1.1e-3, rtol=0)
    assert group.targets.boxes[0].tolist() == [pytest.approx(BOX)] * 2


def test_each_side_has_its_own_direction(monkeypatch):
    noise_of(monkeypatch, direction=(-1, 1, 1, 1), amount=0.5)
    (group,) = make(num_blocks=1)(None, None, truth([(0, BOX)]))
    # left .3 - .1, top .4 + .05, right .7 + .1, bottom .6 + .05
    expected = torch.tensor([0.5, 0.55, 0.6, 0.2])
    torch.testing.assert_close(group.reference[0, 0], expected)


def test_corners_stay_in_the_image_and_sizes_above_zero(monkeypatch):
    noise_of(monkeypatch, direction=(-1, -1, -1, -1), amount=0.5)
    (group,) = make(num_blocks=1)(None, None, truth([(0, [0.1, 0.1, 0.2, 0.2])]))
    # light: left and top 0 - .05, clamped to 0; right and bottom .2 - .05
    torch.testing.assert_close(group.reference[0, 0], torch.tensor([0.075, 0.075, 0.15, 0.15]))
    # heavy: right and bottom .2 - .15
    torch.testing.assert_close(group.reference[0, 1], torch.tensor([0.025, 0.025, 0.05, 0.05]))

    noise_of(monkeypatch, direction=(1, 1, -1, -1), amount=0.9)
    (group,) = make(num_blocks=1)(None, None, truth([(0, BOX)]))
    least = 1e-3 / (1 + 1e-3)  # of a size below 0: sigmoid(log(1e-3))
    assert group.reference[0, 1, 2:].tolist() == pytest.approx([least, least])


@pytest.mark.parametrize("chance, label", [(0.24, 6), (0.25, 3)])
def test_label_noise_of_half_redraws_a_quarter(monkeypatch, chance, label):
    noise_of(monkeypatch, chance=chance, label=6)
    source = make(num_blocks=1, label_noise=0.5)
    (group,) = source(None, None, truth([(3, BOX)]))
    assert torch.equal(group.content[0], source.label_embedding.weight[[label, label]])
    assert group.targets.classes.tolist() == [[3, CLASSES]]  # to be restored


def test_spare_queries_stay_empty_under_noise(monkeypatch):
    noise_of(monkeypatch, chance=0.0, label=6, amount=0.7)
    (group,) = make(num_blocks=1)(None, None, truth([], [(3, BOX)]))
    assert not group.content[0].any()
    assert torch.equal(group.reference[0], torch.full((2, 4), 0.5))
    assert group.targets.classes.tolist() == [[7, 7], [3, 7]]
    assert group.valid is None  # they count as background, as in the release


def test_draws():
    torch.manual_seed(0)
    noise = draw_noise(torch.zeros(2, 50, 2, 10, dtype=torch.int64), CLASSES)
    for uniform in (noise.chance, noise.amount):
        assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1
        assert uniform.mean().item() == pytest.approx(0.5, abs=0.03)
    assert noise.label.unique().tolist() == list(range(CLASSES))
    assert noise.direction.unique().tolist() == [-1, 1]
    assert noise.direction.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.direction.shape == noise.amount.shape == (2, 50, 2, 10, 4)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="num_blocks: 0, None"):
        make(num_queries=0)
    with pytest.raises(ValueError, match="label_noise in .* 3, 1.0"):
        make(label_noise=3)


# ---------------------------------------------------------------- losses


def criterion():
    return SetCriterion(
        num_classes=CLASSES,
        matcher=HungarianMatcher(),
        class_loss=QualityFocalLoss(),
        class_weight=1.0,
    )


def losses_of(group, ground_truth, logits, boxes):
    predictions = {"denoising": Predictions(logits[None], boxes[None])}
    return normalize(criterion()(predictions, [group], None, ground_truth))


def test_losses_by_hand(monkeypatch):
    """Two blocks, an image with one object and one without; all logits 0, all boxes restored."""
    noise_of(monkeypatch)
    ground_truth = truth([(3, BOX)], [])
    (group,) = make(num_blocks=2)(None, None, ground_truth)
    boxes = torch.tensor(BOX).expand(2, 4, 4)
    losses = losses_of(group, ground_truth, torch.zeros(2, 4, CLASSES), boxes)
    # Every entry costs log(2) / 4, also at the label: target IoU 1, probability 1/2. That is 8
    # queries of 7 classes, spare ones included, over 2 positives: blocks times objects.
    expected = 8 * 7 * math.log(2) / 4 / 2
    assert losses["denoising/loss_class_0"].item() == pytest.approx(expected)
    assert losses["denoising/loss_box_0"].item() == pytest.approx(0)
    assert losses["denoising/loss_giou_0"].item() == pytest.approx(0, abs=1e-5)

    shifted = boxes + torch.tensor([0.1, 0.0, 0.0, 0.0])
    losses = losses_of(group, ground_truth, torch.zeros(2, 4, CLASSES), shifted)
    # Only the two positives have a box loss: 5 * .1 each. IoU .3 / .5 = GIoU, so 2 * .4 each.
    assert losses["denoising/loss_box_0"].item() == pytest.approx(0.5)
    assert losses["denoising/loss_giou_0"].item() == pytest.approx(0.8, abs=1e-5)
    # at the label of the two positives: target .6, so (.6 - .5)^2 log(2) each
    expected += (2 * 0.01 - 2 * 0.25) * math.log(2) / 2
    assert losses["denoising/loss_class_0"].item() == pytest.approx(expected)


def test_a_batch_without_objects_costs_nothing():
    ground_truth = truth([], [])
    source = make(num_queries=6)
    (group,) = source(None, None, ground_truth)
    assert group.num_queries == 2 * group.num_blocks > 0
    assert not group.valid.any()
    N, Q = group.valid.shape
    logits = torch.randn(N, Q, CLASSES) + group.content.sum()
    losses = losses_of(group, ground_truth, logits, group.reference)
    assert [loss.item() for loss in losses.values()] == [0, 0, 0]
    sum(losses.values()).backward()
    assert not source.label_embedding.weight.grad.any()  # there, and zero


# ---------------------------------------------------------------- in the model


@pytest.fixture(scope="module")
def model():
    cfg = co_dino_config()
    cfg.query_sources.denoising.label_noise, cfg.query_sources.denoising.box_noise = 0.5, 1.0
    return build(cfg, "co_dino_tiny")


@pytest.fixture(scope="module")
def decoding(model):
    """Memory of two images, and all groups of a training step on an object or two in each."""
    torch.manual_seed(1)
    with torch.no_grad():
        memory, sizes = model.encode(batch("co_dino_tiny"))
        instances = [objects(size, count) for size, count in zip(sizes, (1, 2))]
        ground_truth = GroundTruth.from_instances(instances, sizes)
        proposals, aux = model.proposals(memory), model.assist(memory, sizes, instances)
        sources = model.query_sources.values()
        groups = [g for source in sources for g in source(memory, proposals, ground_truth, aux)]
    return memory, {group.name: group for group in groups}


def objects(size, count):
    boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0], [30.0, 20.0, 70.0, 50.0]])[:count]
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([2, 5])[:count])


@torch.no_grad()
def test_one_pass_equals_a_pass_for_each_group(model, decoding):
    memory, groups = decoding
    assert list(groups) == ["matching", "denoising", "customized/rcnn", "customized/atss"]
    together = model.decoder(list(groups.values()), memory)
    for name, group in groups.items():
        alone = model.decoder([group, *(groups[other] for other in group.sees)], memory)
        torch.testing.assert_close(alone[name].logits, together[name].logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(alone[name].boxes, together[name].boxes, atol=1e-4, rtol=0)


@torch.no_grad()
def test_blocks_are_blind_to_each_other_but_not_to_the_matching_queries(model, decoding):
    memory, groups = decoding
    matching, group = groups["matching"], groups["denoising"]
    size = group.num_queries // group.num_blocks
    assert group.num_blocks > 1

    def decode(matching, group):
        return model.decoder([matching, group], memory)["denoising"].logits

    before = decode(matching, group)
    content = group.content.clone()
    content[:, 0] += 1  # a query of the first block
    after = decode(matching, dataclasses.replace(group, content=content))
    changed = (after - before).abs().amax(dim=(0, 1, 3)) > 1e-4
    assert changed[:size].all() and not changed[size:].any()

    seen = dataclasses.replace(matching, content=matching.content + 1)
    assert ((decode(seen, group) - before).abs().amax(dim=(0, 1, 3)) > 1e-4).all()


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_every_parameter_is_used_whatever_the_batch_holds(model, counts):
    """What a rank does not use in a step would hang or fail distributed training."""
    inputs = batch("co_dino_tiny")
    for x, count in zip(inputs, counts):
        x["instances"] = objects(tuple(x["image"].shape[-2:]), count)
    model.train().zero_grad()
    losses = model(inputs)
    model.eval()
    names = [f"denoising/loss_{kind}_{i}" for kind in ("class", "box", "giou") for i in (0, 1)]
    assert [losses[name].item() == 0 for name in names] == [not any(counts)] * 6
    sum(losses.values()).backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad.isfinite().all() for grad in grads)
