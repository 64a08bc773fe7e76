"""The whole detector: ablation switches, K = 0, 1, 2, one-stage models, padding."""

import pytest
import torch
from detectors import (
    ENCODER,
    MODELS,
    SCHEMES,
    assert_healthy,
    aux_losses,
    build,
    decoder_losses,
    full,
    make_input,
    no_heads,
    train_step,
    usual_batch,
)
from detectron2.structures import Boxes, Instances
from torch import nn

from co_detr.modeling.base_detector import padding_mask
from co_detr.modeling.whole_batch import WholeBatch

pytestmark = pytest.mark.usefixtures("fixed_seed")


def test_training_examples_without_annotations_are_named():
    batch = usual_batch()
    del batch[1]["instances"]
    with pytest.raises(ValueError, match=r"example 1 of the batch has \['image'.*is_train=True"):
        build(full()).train()(batch)


def test_annotations_of_a_batch_are_looked_at_before_its_first_part():
    """A step in parts reads the labels of all of them at once."""
    model, batch = build(no_heads()).train(), usual_batch()
    batch[1]["instances"].gt_classes[0] = 7
    with (
        WholeBatch(batch).use(),
        pytest.raises(ValueError, match=r"\[1\].*is 7, wanted is a label 0 to 6"),
    ):
        model(batch[:1])


# ---------------------------------------------------------------------------------------------
# variants


@pytest.mark.parametrize("variant", MODELS)
def test_every_variant_trains_and_detects(variant):
    config = MODELS[variant]()
    heads = [name for name in config.get("aux_heads", {}) if name != "_target_"]
    two_stage = "proposals" in config
    model = build(config)
    losses = train_step(model, usual_batch())
    assert_healthy(model, losses)
    customized = [f"customized/{head}" for head in heads]
    expected = decoder_losses("matching", *customized, *SCHEMES.get(variant, []))
    assert set(losses) == expected | aux_losses(*heads) | (ENCODER if two_stage else set())

    with torch.no_grad():
        results = model.eval()(usual_batch())
    for result, (height, width) in zip(results, [(64, 96), (80, 70)]):
        found = result["instances"]
        assert found.image_size == (height, width)
        assert 0 < len(found) <= 20
        assert (found.scores.diff() <= 0).all() and found.pred_classes.max() < 7
        x1, y1, x2, y2 = found.pred_boxes.tensor.unbind(1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()


@pytest.mark.parametrize("name", ["two-heads", "one-stage", "one-stage-atss", "conditional", "dab"])
def test_training_makes_losses_fall(name):
    model, batch = build(MODELS[name]()), usual_batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for _ in range(6):
        totals.append(sum(train_step(model, batch).values()).item())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert totals[-1] < 0.9 * totals[0]


@pytest.mark.parametrize("name", ["two-heads", "atss", "one-stage-atss"])
def test_customized_queries_leave_the_matching_queries_alone(name):
    with_them, without = (
        build(MODELS[name](), customized_queries=on).train() for on in (True, False)
    )
    without.load_state_dict(with_them.state_dict(), strict=False)
    losses, expected = train_step(with_them, usual_batch()), train_step(without, usual_batch())
    gone = {loss for loss in losses if loss.startswith("customized/")}
    assert set(losses) - set(expected) == gone and len(gone) == 6 * len(with_them.aux_heads)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, atol=1e-5, rtol=1e-5, msg=key)


def test_learned_queries_are_the_same_for_all_images():
    model = build(MODELS["one-stage"]())
    memory, _ = model.encode(usual_batch())
    (group,) = model.query_sources["matching"](memory)
    assert group.reference.shape == (2, 30, 2)
    for tensor in (group.content, group.position, group.reference):
        torch.testing.assert_close(tensor[0], tensor[1])
    weight = model.query_sources["matching"].embedding.weight  # position, then content
    assert torch.equal(group.position[0], weight[:, :64])
    assert torch.equal(group.content[0], weight[:, 64:])


# ---------------------------------------------------------------------------------------------
# switches


@pytest.mark.parametrize(
    "switches, heads_train, customized",
    [
        ({}, True, True),
        ({"aux_losses": False}, False, True),
        ({"customized_queries": False}, True, False),
        ({"aux_losses": False, "customized_queries": False}, False, False),
    ],
)
@pytest.mark.parametrize("name", ["two-heads", "rcnn"])
def test_ablation_switches(name, switches, heads_train, customized):
    cfg = MODELS[name]()
    heads = [name for name in cfg.aux_heads if name != "_target_"]
    model = build(cfg, **switches)
    losses = train_step(model, usual_batch())
    expected = ENCODER | decoder_losses("matching")
    if heads_train:
        expected |= aux_losses(*heads)
    if customized:
        expected |= decoder_losses(*(f"customized/{head}" for head in heads))
    assert set(losses) == expected
    assert_healthy(model, losses)
    # what has no part in any loss is not trained, and says so
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone"} | (set() if heads_train else {"aux_heads", "pyramid"})
    assert any(name.startswith("query_sources.customized") for name in model.state_dict()) == (
        customized
    )


def test_heads_without_losses_still_assign_and_detect():
    model, whole = build(full(), aux_losses=False), build(full())
    whole.load_state_dict(model.state_dict())
    losses, expected = train_step(model, usual_batch()), train_step(whole, usual_batch())
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], msg=key)
    model.eval_branch = "atss"
    with torch.no_grad():
        assert len(model.eval()(usual_batch())[0]["instances"]) == 20


def test_heads_that_serve_nothing_are_not_run():
    model = build(full(), aux_losses=False, customized_queries=False)
    for head in model.aux_heads.values():
        head.register_forward_hook(lambda *_: pytest.fail("a head ran"))
    train_step(model, usual_batch())


@pytest.mark.parametrize("branch", ["matching", "rcnn", "atss"])
def test_branches_of_evaluation(branch):
    model = build(full(), eval_branch=branch).eval()
    calls = []
    for name, module in (("matching", model.decoder), *model.aux_heads.items()):
        method = "forward" if name == "matching" else "inference"
        original = getattr(module, method)

        def noted(*args, _name=name, _original=original):
            calls.append(_name)
            return _original(*args)

        setattr(module, method, noted)
    with torch.no_grad():
        model(usual_batch())
    assert calls == [branch]


def named(name):
    """Two heads, of which ATSS is called otherwise."""

    def make():
        cfg = full()
        cfg.aux_heads[name] = cfg.aux_heads.pop("atss")
        return cfg

    return make


@pytest.mark.parametrize(
    "make, changes, message",
    [
        (full, {"eval_branch": "fcos"}, r"'fcos' is none of \['matching', 'rcnn', 'atss'\]"),
        (no_heads, {"eval_branch": "atss"}, r"'atss' is none of \['matching'\]"),
        (full, {"pyramid": None}, "read a pyramid"),
        (MODELS["one-stage"], {"query_sources": {}}, 'need "matching"'),
        (named("encoder"), {}, "head 'encoder' would hide losses"),
        (named("matching"), {}, "head 'matching' would hide losses"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, changes, message):
    cfg = make()
    with pytest.raises(ValueError, match=message):
        build(cfg, **changes)


# ---------------------------------------------------------------------------------------------
# padding and sizes


@pytest.mark.parametrize("branch", ["matching", "rcnn", "atss"])
def test_detections_do_not_depend_on_the_other_image(branch):
    """Neither on what it shows nor on whether it is there, as long as the padded size stays.

    With the padded size, detections change a little, as in the released models: convolutions of
    the backbone turn zeros beside the image into something else, the neck's group norm averages
    over the padding, and so do the auxiliary heads'; tokens in the padding may become proposals.
    """
    model = build(full(), eval_branch=branch).eval()
    small = make_input(60, 70, seed=1)
    with torch.no_grad():
        first = model([small, make_input(64, 96, seed=2)])[0]["instances"]
        second = model([small, make_input(64, 96, seed=3)])[0]["instances"]
        third = model([make_input(50, 96, seed=4), make_input(64, 30, seed=5), small])
    for other in (second, third[2]["instances"]):
        assert torch.equal(other.pred_classes, first.pred_classes)
        torch.testing.assert_close(other.scores, first.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            other.pred_boxes.tensor, first.pred_boxes.tensor, atol=1e-2, rtol=0
        )


def test_encoder_does_not_see_the_padding():
    """Tokens of an image are the same on a larger canvas, whatever its padding holds."""
    encoder = build(full()).encoder
    for layer in encoder.layers:  # zero at the start, and then all queries would look alike
        nn.init.normal_(layer.attention.sampling_offsets.weight, std=0.1)
        nn.init.normal_(layer.attention.attention_weights.weight, std=0.1)
    shapes, larger = [(8, 12), (4, 6), (2, 3), (1, 2)], [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps = [torch.randn(1, 64, *shape) for shape in shapes]
    canvas = [10 * torch.randn(1, 64, *shape) for shape in larger]
    for big, small in zip(canvas, maps):
        big[:, :, : small.shape[2], : small.shape[3]] = small
    padding = padding_mask(torch.zeros(1, 3, 128, 192), [(64, 96)])
    with torch.no_grad():
        alone = encoder(maps, torch.zeros(1, 64, 96, dtype=torch.bool))
        padded = encoder(canvas, padding)
    assert padded.valid_cells.tolist() == alone.valid_cells.tolist()
    for big, small in zip(padded.maps(), alone.maps()):
        cropped = big[:, :, : small.shape[2], : small.shape[3]]
        torch.testing.assert_close(cropped, small, atol=1e-4, rtol=0)


def test_padding_mask_by_hand():
    mask = padding_mask(torch.zeros(2, 3, 2, 3), [(2, 3), (1, 2)])
    assert mask.int().tolist() == [[[0, 0, 0], [0, 0, 0]], [[0, 0, 1], [1, 1, 1]]]


def test_padding_counts_as_image_where_it_is_not_masked():
    model = build(full(), mask_padding=False)
    batch = usual_batch()
    images, sizes = model.preprocess(batch)
    assert images.shape[-2:] == (80, 96) and sizes == [(80, 96)] * 2
    seen = []
    model.encoder.register_forward_pre_hook(lambda _m, x: seen.append(x[1]))
    assert_healthy(model, train_step(model, batch))
    assert not seen[0].any()
    # without padding there is no difference
    masked = build(full()).eval()
    masked.load_state_dict(model.eval().state_dict())
    with torch.no_grad():
        one, other = (m([make_input(64, 96)])[0]["instances"] for m in (model, masked))
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_detections_are_scaled_to_the_output(mask_padding, monkeypatch):
    model = build(no_heads(), mask_padding=mask_padding).eval()
    batch = usual_batch()  # 64 x 96 and 80 x 70
    batch[0] |= {"height": 128, "width": 288}

    def detect(memory, sizes, own_sizes):
        found = [Instances(size) for size in sizes]
        for x in found:
            x.pred_boxes = Boxes([[10.0, 20, 30, 40], [0, 0, 96, 80]])
            x.pred_boxes.clip(x.image_size)
            x.scores = torch.ones(2)
        return found

    monkeypatch.setattr(model, "detect", detect)
    with torch.no_grad():
        one, other = (result["instances"] for result in model(batch))
    assert one.image_size == (128, 288) and other.image_size == (80, 70)
    assert one.pred_boxes.tensor.tolist() == [[30, 40, 90, 80], [0, 0, 288, 128]]
    assert other.pred_boxes.tensor.tolist() == [[10, 20, 30, 40], [0, 0, 70, 80]]


def test_backbones_may_ask_for_squares(monkeypatch):
    model = build(no_heads())
    asked = property(lambda self: {"square_size": 96})
    monkeypatch.setattr(type(model.backbone), "padding_constraints", asked)
    image = torch.zeros(3, 60, 70, dtype=torch.uint8)
    assert model.preprocess([{"image": image}])[0].shape == (1, 3, 96, 96)
    with pytest.raises(ValueError, match="60x100 pixels does not fit .* squares of 96"):
        model.preprocess([{"image": torch.zeros(3, 60, 100, dtype=torch.uint8)}])


def test_pixels_are_normalized_before_padding():
    model = build(no_heads(), pixel_mean=[1.0, 2.0, 3.0], pixel_std=[2.0, 4.0, 8.0])
    image = torch.tensor([5, 6, 11], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    images, sizes = model.preprocess([{"image": image}, {"image": torch.zeros(3, 3, 4)}])
    assert sizes == [(2, 2), (3, 4)]
    assert images[0, :, 0, 0].tolist() == [2.0, 1.0, 1.0]
    assert images[0, :, 2:].abs().sum() == 0 and images[0, :, :, 2:].abs().sum() == 0
