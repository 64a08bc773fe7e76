"""The decoder: one pass over all groups equals separate passes, and some values by hand."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from co_detr.modeling.queries.group import HungarianTargets, QueryGroup
from co_detr.modeling.transformer.conditional_decoder import ConditionalDecoder
from co_detr.modeling.transformer.dab_decoder import DABDecoder
from co_detr.modeling.transformer.decoder import DeformableDecoder
from co_detr.modeling.transformer.encoder import EncoderMemory

C, NUM_CLASSES = 32, 5
SHAPES = [(6, 8), (3, 4)]
S = 6 * 8 + 3 * 4

KINDS = {
    "deformable": dict(),
    "no-look-forward": dict(look_forward_twice=False),
    "dino": dict(dino=True, eps=1e-3),
    "one-stage": dict(two_stage=False, refine=False, look_forward_twice=False),
    "one-stage-refined": dict(two_stage=False),
    "conditional": dict(dropout=0.0),
    "dab": dict(dropout=0.0),
}
DENSE = {"conditional": ConditionalDecoder, "dab": DABDecoder}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def make_decoder(kind="deformable", randomize=True, **changes):
    settings = dict(
        num_classes=NUM_CLASSES,
        embed_dim=C,
        num_layers=3,
        num_heads=4,
        ffn_dim=64,
    )
    if kind not in DENSE:
        settings |= dict(num_levels=len(SHAPES), num_points=2)
    decoder = DENSE.get(kind, DeformableDecoder)(**settings | KINDS[kind] | changes)
    if randomize:  # many weights start at zero, which would hide most of what is tested
        for name, parameter in decoder.named_parameters():
            std = 0.1 if "bias" in name else 1 / math.sqrt(parameter.shape[-1])
            nn.init.normal_(parameter, mean=1.0 if "norm.weight" in name else 0.0, std=std)
    return decoder


def make_memory(num_images=2):
    """The last image is padded: 6 of 8 columns and 4 of 6 rows are valid, half as many above."""
    padding = []
    for (height, width), (rows, columns) in zip(SHAPES, [(4, 6), (2, 3)]):
        level = torch.zeros(num_images, height, width, dtype=torch.bool)
        level[-1, rows:], level[-1, :, columns:] = True, True
        padding.append(level.flatten(1))
    valid_cells = torch.tensor([[[8.0, 6], [4, 3]]] * (num_images - 1) + [[[6.0, 4], [3, 2]]])
    tokens = torch.randn(num_images, S, C, requires_grad=True)
    position = torch.randn(num_images, S, C)
    return EncoderMemory(tokens, torch.cat(padding, dim=1), SHAPES, valid_cells, position)


def make_group(name, num_queries, kind="deformable", points=False, num_images=2, **kwargs):
    reference = 0.1 + 0.8 * torch.rand(num_images, num_queries, 2 if points else 4)
    position = None if kind in ("dino", "dab") else torch.randn(num_images, num_queries, C)
    return QueryGroup(
        name=name,
        content=torch.randn(num_images, num_queries, C, requires_grad=True),
        reference=reference.requires_grad_(),
        targets=HungarianTargets(),
        position=position,
        **kwargs,
    )


def all_groups(kind):
    """What training sends through the decoder at once, with every kind of visibility."""
    valid = torch.tensor([[True] * 4 + [False] * 2, [True, False, True, True, True, False]])
    points = kind.startswith("one-stage") or kind == "conditional"
    return [
        make_group("denoising", 8, kind, sees=("matching",), num_blocks=2),
        make_group("matching", 7, kind, points=points),
        make_group("customized/rcnn", 6, kind, valid=valid),
        make_group("customized/atss", 5, kind),
        make_group("one_to_many", 9, kind),
        make_group("group_2", 7, kind, points=points),
    ]


def cut(group, images=slice(None), queries=slice(None), **changes):
    """Some queries of some images as a group of their own."""
    tensors = {
        name: value[images][:, queries]
        for name in ("content", "reference", "position", "valid")
        if (value := getattr(group, name)) is not None
    }
    return dataclasses.replace(group, **tensors | changes)


def image_of(memory, index):
    return EncoderMemory(
        memory.tokens[index : index + 1],
        memory.padding[index : index + 1],
        memory.spatial_shapes,
        memory.valid_cells[index : index + 1],
        memory.position[index : index + 1],
    )


def separate_passes(decoder, groups, memory):
    """Yield (group name, images, queries, predictions) of passes that share nothing but weights.

    A pass holds one group and the groups it sees; of a group with blocks, one block; of a group
    with padding, one image without it.
    """
    matching = next(g for g in groups if g.name == "matching")
    everything = slice(None)
    for group in groups:
        if group.num_blocks > 1:
            size = group.num_queries // group.num_blocks
            for start in range(0, group.num_queries, size):
                queries = slice(start, start + size)
                alone = cut(group, queries=queries, num_blocks=1)
                predictions = decoder([alone, matching], memory)[group.name]
                yield group.name, everything, queries, predictions
        elif group.valid is not None:
            for index in range(len(group.valid)):
                images, queries = slice(index, index + 1), group.valid[index].nonzero()[:, 0]
                alone = dataclasses.replace(cut(group, images, queries), valid=None)
                predictions = decoder([alone], image_of(memory, index))[group.name]
                yield group.name, images, queries, predictions
        else:
            yield group.name, everything, everything, decoder([group], memory)[group.name]


def gradients(loss, decoder, groups, memory):
    """Gradients by name: of the weights, of the memory, and of the queries a group starts from."""
    inputs = {f"weight {name}": p for name, p in decoder.named_parameters()}
    inputs["memory"] = memory.tokens
    for group in groups:
        inputs[f"content of {group.name}"] = group.content
        inputs[f"reference of {group.name}"] = group.reference
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(x) if gradient is None else gradient
        for (name, x), gradient in zip(inputs.items(), found)
    }


def test_one_pass_equals_separate_passes(kind):
    decoder, memory, groups = make_decoder(kind), make_memory(), all_groups(kind)
    together = decoder(groups, memory)
    assert list(together) == [group.name for group in groups]

    together_loss = separate_loss = 0.0
    num_queries = 0
    for name, images, queries, alone in separate_passes(decoder, groups, memory):
        for field in ("logits", "boxes"):
            expected = getattr(alone, field)
            actual = getattr(together[name], field)[:, images][:, :, queries]
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
            weights = torch.randn(expected.shape)
            together_loss = together_loss + (actual * weights).sum()
            separate_loss = separate_loss + (expected * weights).sum()
        num_queries += alone.boxes.shape[1] * alone.boxes.shape[2]
    assert num_queries == 2 * (8 + 7 + 5 + 9 + 7) + 4 + 4  # all but the padding

    actual = gradients(together_loss, decoder, groups, memory)
    expected = gradients(separate_loss, decoder, groups, memory)
    assert max(g.abs().max() for g in expected.values()) > 1
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_padding_queries_influence_nobody(kind):
    decoder, memory, groups = make_decoder(kind), make_memory(), all_groups(kind)
    with torch.no_grad():
        before = decoder(groups, memory)
        padded = groups[2]
        hidden = ~padded.valid[..., None]
        disturbed = dataclasses.replace(
            padded,
            content=torch.where(hidden, 100 * torch.randn(padded.content.shape), padded.content),
            reference=torch.where(hidden, torch.rand(padded.reference.shape), padded.reference),
        )
        after = decoder([*groups[:2], disturbed, *groups[3:]], memory)
    for group in groups:
        valid = slice(None) if group.valid is None else group.valid
        for field in ("logits", "boxes"):
            old, new = getattr(before[group.name], field), getattr(after[group.name], field)
            torch.testing.assert_close(new[:, valid], old[:, valid], atol=1e-6, rtol=0)
    # the test sees a change where there is one
    assert not torch.allclose(after[padded.name].logits, before[padded.name].logits)


def test_order_of_the_groups_does_not_matter(kind):
    decoder, memory, groups = make_decoder(kind), make_memory(), all_groups(kind)
    with torch.no_grad():
        forth, back = decoder(groups, memory), decoder(groups[::-1], memory)
    for name in forth:
        torch.testing.assert_close(back[name].logits, forth[name].logits, atol=1e-5, rtol=0)


def test_a_group_sees_what_it_says_it_sees():
    decoder, memory, groups = make_decoder(), make_memory(), all_groups("deformable")
    blind = [dataclasses.replace(groups[0], sees=()), *groups[1:]]
    with torch.no_grad():
        seeing, not_seeing = decoder(groups, memory), decoder(blind, memory)
    assert not torch.allclose(seeing["denoising"].logits, not_seeing["denoising"].logits, atol=1e-3)
    assert torch.equal(seeing["matching"].logits, not_seeing["matching"].logits)


def test_padding_of_the_memory_is_never_read(kind):
    decoder, memory, groups = make_decoder(kind), make_memory(), all_groups(kind)
    with torch.no_grad():
        garbage = torch.where(memory.padding[..., None], 100.0, memory.tokens)
        before = decoder(groups, memory)
        after = decoder(groups, dataclasses.replace(memory, tokens=garbage))
    for name in before:
        assert torch.equal(after[name].logits, before[name].logits)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dino"])
def test_a_larger_canvas_changes_nothing(kind):
    """An image that another one of its batch pads is decoded like the image alone.

    Not so in DINO: as in the released models, the position of a query is computed from its
    reference as a fraction of the padded canvas.
    """
    decoder, memory = make_decoder(kind), make_memory()
    groups = [cut(group, slice(1, 2)) for group in all_groups(kind)]
    padded = image_of(memory, 1)
    image = ~padded.padding[0]  # rows of cells stay rows without what is right of them and below
    cropped = EncoderMemory(
        padded.tokens[:, image],
        padded.padding[:, image],
        [(4, 6), (2, 3)],
        padded.valid_cells,
        padded.position[:, image],
    )
    with torch.no_grad():
        on_canvas, alone = decoder(groups, padded), decoder(groups, cropped)
    for name in alone:
        torch.testing.assert_close(on_canvas[name].boxes, alone[name].boxes, atol=1e-5, rtol=0)
        torch.testing.assert_close(on_canvas[name].logits, alone[name].logits, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------
# refinement


def test_an_untrained_two_stage_decoder_keeps_its_references():
    decoder, group = make_decoder(randomize=False), make_group("matching", 3)
    boxes = decoder([group], make_memory())["matching"].boxes
    torch.testing.assert_close(boxes, group.reference.expand(3, 2, 3, 4))


@pytest.mark.parametrize("kind", ["one-stage", "one-stage-refined"])
def test_an_untrained_one_stage_decoder_puts_small_boxes_on_its_points(kind):
    decoder = make_decoder(kind, randomize=False)
    group = make_group("matching", 3, points=True)
    boxes = decoder([group], make_memory())["matching"].boxes
    torch.testing.assert_close(boxes[..., :2], group.reference.expand(3, 2, 3, 2))
    side = 1 / (1 + math.exp(2.0))
    torch.testing.assert_close(boxes[..., 2:], torch.full((3, 2, 3, 2), side))


def test_untrained_class_probabilities_are_the_prior():
    decoder = make_decoder(randomize=False)
    nn.init.zeros_(decoder.class_branches[0].weight)
    logits = decoder([make_group("matching", 3)], make_memory())["matching"].logits
    torch.testing.assert_close(logits[0].sigmoid(), torch.full((2, 3, NUM_CLASSES), 0.01))


def test_corrections_add_up_from_layer_to_layer():
    decoder = make_decoder(randomize=False)
    for layer, branch in enumerate(decoder.box_branches):
        nn.init.constant_(branch[-1].bias, 0.1 * (layer + 1))
    group = make_group("matching", 3)
    boxes = decoder([group], make_memory())["matching"].boxes
    start = group.reference.logit()
    for layer, total in enumerate((0.1, 0.3, 0.6)):
        torch.testing.assert_close(boxes[layer], (start + total).sigmoid(), atol=1e-5, rtol=0)


def test_without_refinement_every_layer_corrects_the_same_reference():
    decoder = make_decoder("one-stage", randomize=False)
    assert len(decoder.box_branches) == len(decoder.class_branches) == 1
    nn.init.constant_(decoder.box_branches[0][-1].bias, 0.3)
    group = make_group("matching", 3)  # four-dimensional, as customized queries are
    boxes = decoder([group], make_memory())["matching"].boxes
    expected = (group.reference.logit() + 0.3).sigmoid()
    torch.testing.assert_close(boxes, expected.expand(3, 2, 3, 4), atol=1e-5, rtol=0)


def branches_with_gradient(kind):
    """Box branches that a loss on the boxes of the last layer trains."""
    decoder = make_decoder(kind)
    boxes = decoder([make_group("matching", 3, kind)], make_memory())["matching"].boxes
    weights = [branch[-1].weight for branch in decoder.box_branches]
    found = torch.autograd.grad(boxes[-1].sum(), weights, allow_unused=True)
    return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]


def test_look_forward_twice_trains_the_refinement_of_the_layer_before():
    assert branches_with_gradient("deformable") == [False, True, True]
    assert branches_with_gradient("dino") == [False, True, True]
    assert branches_with_gradient("no-look-forward") == [False, False, True]


def test_anchor_boxes_are_corrected_from_layer_to_layer():
    decoder = make_decoder("dab", randomize=False)
    nn.init.constant_(decoder.box_branch[-1].bias, 0.1)
    group = make_group("matching", 3, "dab")
    boxes = decoder([group], make_memory())["matching"].boxes
    for layer, total in enumerate((0.1, 0.2, 0.3)):
        expected = (group.reference.logit() + total).sigmoid()
        torch.testing.assert_close(boxes[layer], expected, atol=1e-5, rtol=0)


def test_conditional_boxes_stand_on_the_centers_of_references():
    """A box and a point of the same centre are one query; its size comes from the branch alone."""
    decoder = make_decoder("conditional")
    box = make_group("matching", 3, "conditional")
    point = dataclasses.replace(box, reference=box.reference[..., :2])
    memory = make_memory()
    for field in ("boxes", "logits"):
        as_box, as_point = (getattr(decoder([g], memory)["matching"], field) for g in (box, point))
        assert torch.equal(as_box, as_point)
    nn.init.zeros_(decoder.box_branch[-1].weight)
    decoder.box_branch[-1].bias.data = torch.tensor([0.3, 0.3, -1.0, -2.0])
    boxes = decoder([point], memory)["matching"].boxes
    moved = (point.reference.logit() + 0.3).sigmoid()
    torch.testing.assert_close(boxes[..., :2], moved.expand(3, 2, 3, 2), atol=1e-5, rtol=0)
    size = torch.tensor([-1.0, -2.0]).sigmoid()
    torch.testing.assert_close(boxes[..., 2:], size.expand(3, 2, 3, 2))


def test_anchor_boxes_without_size_stay_finite():
    """Positives of an auxiliary head may be clipped to nothing at the border of the image."""
    decoder = make_decoder("dab")
    group = make_group("customized/rcnn", 3, "dab")
    flat = dataclasses.replace(group, reference=group.reference * torch.tensor([1.0, 1, 0, 0]))
    predictions = decoder([flat], make_memory())["customized/rcnn"]
    assert predictions.boxes.isfinite().all() and predictions.logits.isfinite().all()


@pytest.mark.parametrize("dense", DENSE)
def test_memory_without_positions_is_refused(dense):
    memory = dataclasses.replace(make_memory(), position=None)
    with pytest.raises(ValueError, match="use a DenseEncoder"):
        make_decoder(dense)([make_group("matching", 3, dense)], memory)


def test_anchor_boxes_are_what_dab_needs():
    with pytest.raises(ValueError, match=r"\['matching'\] have points"):
        make_decoder("dab")([make_group("matching", 3, "dab", points=True)], make_memory())


def test_look_forward_twice_without_refinement_is_refused():
    with pytest.raises(ValueError, match="needs refine=True"):
        make_decoder("one-stage", look_forward_twice=True)


def test_a_group_without_position_needs_dino():
    groups = [make_group("matching", 3), make_group("denoising", 2, kind="dino")]
    with pytest.raises(ValueError, match=r"\['denoising'\] carry no position"):
        make_decoder()(groups, make_memory())


def test_where_queries_look():
    """Offsets count half a box over P, or cells where the reference is a point."""
    memory = make_memory(1)  # valid: 6 of 8 columns, 4 of 6 rows; 3 of 4 and 2 of 3
    reference = torch.tensor([[[0.5, 0.25, 0.4, 0.8], [0.5, 0.25, 0.5, 0.5]]])
    points = torch.tensor([False, True])
    boxes = reference[:, :, None] * memory.valid_ratios[:, None].repeat(1, 1, 1, 2)
    centers, scale = make_decoder()._sampling_frame(boxes, points, memory.spatial_shapes)
    # the valid share is 3/4 of the width and 2/3 of the height on both levels
    torch.testing.assert_close(centers, torch.tensor([0.375, 1 / 6]).expand(1, 2, 2, 2))
    half_box_over_points = torch.tensor([0.4 * 3 / 4, 0.8 * 2 / 3]) / 2 / 2
    torch.testing.assert_close(scale[0, 0], half_box_over_points.expand(2, 2))
    torch.testing.assert_close(scale[0, 1], torch.tensor([[1 / 8, 1 / 6], [1 / 4, 1 / 3]]))
