"""Hybrid and grouped matching: which proposals go where, who sees whom, and what is left of it."""

import pytest
import torch
from golden import co_dino_config
from test_detector import MODELS, SCHEMES, build, decoder_losses, no_heads, train_step, usual_batch

from co_detr.modeling.assignment import GroundTruth, HungarianMatcher, MatchingProblem
from co_detr.modeling.queries.group import HungarianTargets, visibility
from co_detr.modeling.queries.hybrid import GroupedQueries, HybridQueries
from co_detr.modeling.queries.learned import LearnedQueries, SelectedQueries
from co_detr.modeling.transformer.encoder import EncoderMemory
from co_detr.modeling.transformer.proposals import Proposals, TwoStageProposals

C = 8


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def memory(num_tokens=12, num_images=2):
    """One row of cells, all valid."""
    return EncoderMemory(
        torch.randn(num_images, num_tokens, C),
        torch.zeros(num_images, num_tokens, dtype=torch.bool),
        [(1, num_tokens)],
        torch.tensor([[[float(num_tokens), 1.0]]]).expand(num_images, 1, 2),
        None,
    )


def ranking(count, num_images=2):
    """The proposal of rank r has the width r / 100."""
    reference = torch.full((num_images, count, 4), 0.5)
    reference[..., 2] = torch.arange(count) / 100
    return Proposals(torch.zeros(num_images, count).long(), reference, None, None, True)


def ranks(group):
    return (group.reference[0, :, 2] * 100).round().long().tolist()


def hybrid(**changes):
    settings = dict(num_one_to_many=5, repeats=2, num_queries=3, embed_dim=C)
    return HybridQueries(**settings | changes)


# ---------------------------------------------------------------------------------------------
# hybrid


def test_the_next_proposals_go_to_the_one_to_many_queries():
    source = hybrid(weight=0.5)
    matching, one_to_many = source(memory(), ranking(8))
    assert (matching.name, one_to_many.name) == ("matching", "one_to_many")
    assert ranks(matching) == [0, 1, 2]
    assert ranks(one_to_many) == [3, 4, 5, 6, 7]
    assert (matching.targets, matching.weight) == (HungarianTargets(1), 1.0)
    assert (one_to_many.targets, one_to_many.weight) == (HungarianTargets(2), 0.5)
    # contents are learned, positions come from the boxes by what both groups share
    assert torch.equal(matching.content[1], source.content.weight)
    assert torch.equal(one_to_many.content[1], source.extra.weight)
    position, _ = source.encode(ranking(8).reference).chunk(2, dim=-1)
    torch.testing.assert_close(
        torch.cat([matching.position, one_to_many.position], dim=1), position
    )


def test_content_from_the_boxes_needs_nothing_learned():
    source = hybrid(mixed_selection=False)
    _, one_to_many = source(memory(), ranking(8))
    _, content = source.encode(ranking(8).reference[:, 3:]).chunk(2, dim=-1)
    torch.testing.assert_close(one_to_many.content, content)
    assert source.extra is None


@pytest.mark.parametrize("tokens, expected", [(6, [3, 4, 5]), (4, [3]), (3, [2]), (2, [1])])
def test_small_images_have_fewer_one_to_many_queries_but_one(tokens, expected):
    matching, one_to_many = hybrid()(memory(tokens), ranking(tokens))
    assert ranks(matching) == list(range(min(tokens, 3)))
    assert ranks(one_to_many) == expected


def test_a_ranking_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="need 8 proposals, but 3 are ranked.*num_extra to 5"):
        hybrid()(memory(), ranking(3))


@pytest.mark.parametrize("changes", [{"num_one_to_many": 0}, {"repeats": 0}])
def test_numbers_of_the_hybrid_scheme_are_checked(changes):
    with pytest.raises(ValueError, match="need positive num_one_to_many, repeats"):
        hybrid(**changes)


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_more_proposals_in_training_extend_the_same_ranking(class_agnostic):
    """What the loss on proposals sees and what inference ranks do not know about them."""
    settings = dict(embed_dim=C, num_classes=4, num_proposals=3, class_agnostic=class_agnostic)
    plain, extended = TwoStageProposals(**settings), TwoStageProposals(**settings, num_extra=5)
    extended.load_state_dict(plain.state_dict())
    tokens = memory()
    with torch.no_grad():
        expected, more, detecting = plain(tokens), extended(tokens), extended.eval()(tokens)
    scores = plain.class_branch(plain.output_norm(plain.output(tokens.tokens)))
    score = scores[..., 0] if class_agnostic else scores.amax(-1)
    # base boxes of the tokens at both ends are as valid as the others
    assert torch.equal(more.index, score.argsort(dim=1, descending=True)[:, :8])
    assert more.reference.shape == (2, 8, 4)
    for name in ("index", "reference"):
        assert torch.equal(getattr(more, name)[:, :3], getattr(expected, name))
        assert torch.equal(getattr(detecting, name), getattr(expected, name))
    for name in ("logits", "boxes"):
        assert torch.equal(getattr(more, name), getattr(expected, name))
        assert torch.equal(getattr(detecting, name), getattr(expected, name))


def test_every_object_is_matched_to_as_many_queries_as_it_repeats():
    """Two objects, six queries: the three on either one are its own."""
    truth = GroundTruth(
        [torch.tensor([0, 1])],
        [torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]])],
        torch.full((1, 4), 100.0),
    )
    centers = torch.tensor([0.2, 0.8, 0.21, 0.79, 0.5, 0.22, 0.78])
    boxes = torch.stack([centers, centers, *torch.full((2, 7), 0.1)], dim=-1)[None, None]
    problem = MatchingProblem(torch.zeros(1, 1, 7, 2), boxes, repeats=3)
    matched = HungarianMatcher()({"one_to_many": problem}, truth)["one_to_many"]
    assert matched.tolist() == [[[0, 1, 0, 1, -1, 0, 1]]]


# ---------------------------------------------------------------------------------------------
# groups


def test_groups_have_contents_and_positions_of_their_own():
    source = GroupedQueries(num_groups=3, num_queries=4, embed_dim=C)
    groups = source(memory())
    assert [group.name for group in groups] == ["matching", "group_2", "group_3"]
    rows = [source.embedding.weight, source.extra.weight[:4], source.extra.weight[4:]]
    for group, learned in zip(groups, rows, strict=True):
        assert group.targets == HungarianTargets(1)
        assert torch.equal(torch.cat([group.position, group.content], dim=-1)[1], learned)
        points = source.reference_points(learned[:, :C]).sigmoid()
        torch.testing.assert_close(group.reference, points.expand(2, 4, 2))


def test_one_group_is_no_group():
    with pytest.raises(ValueError, match="need num_groups >= 2, got 1"):
        GroupedQueries(num_groups=1, num_queries=4, embed_dim=C)


# ---------------------------------------------------------------------------------------------
# both


def sources():
    settings = dict(num_queries=3, embed_dim=C)
    grouped = GroupedQueries(num_groups=3, **settings)
    return [(hybrid(), SelectedQueries(**settings)), (grouped, LearnedQueries(**settings))]


def test_learned_content_starts_as_small_as_asked_for():
    contents = []
    for std in (1.0, 0.25):
        torch.manual_seed(0)
        source = SelectedQueries(num_queries=3, embed_dim=C, content_std=std)
        contents.append(source(memory(), ranking(8))[0].content)
    assert torch.equal(contents[1], contents[0] / 4)


@pytest.mark.parametrize("scheme", [0, 1], ids=["hybrid", "grouped"])
def test_groups_are_blind_to_each_other(scheme):
    source, _ = sources()[scheme]
    start = 0
    groups = source(memory(), ranking(8))
    for span, group in zip(visibility(groups), groups, strict=True):
        own = slice(start, start + group.num_queries)
        assert (span.queries, span.keys, span.mask) == (own, (own,), None)
        start = own.stop
    assert start == [3 + 5, 3 * 3][scheme]


@pytest.mark.parametrize("scheme", [0, 1], ids=["hybrid", "grouped"])
def test_inference_knows_the_plain_source_alone(scheme):
    source, plain = sources()[scheme]
    beyond = plain.load_state_dict(source.state_dict(), strict=False)
    assert (beyond.missing_keys, beyond.unexpected_keys) == ([], ["extra.weight"])
    (group,) = source.eval()(memory(), ranking(8))
    (expected,) = plain.eval()(memory(), ranking(8))
    assert group.name == "matching" and group.targets == expected.targets
    for name in ("content", "position", "reference"):
        assert torch.equal(getattr(group, name), getattr(expected, name))


@pytest.mark.parametrize(
    "name, start",
    [
        ("hybrid", "two-heads"),
        ("hybrid-dino", lambda: no_heads(co_dino_config)),
        ("grouped-atss", "one-stage-atss"),
    ],
)
def test_hybrid_and_grouped_schemes_leave_the_model_alone(name, start):
    model, plain = build(MODELS[name]()), build(MODELS.get(start, start)())
    plain.load_state_dict(model.state_dict(), strict=False)
    losses, expected = train_step(model, usual_batch()), train_step(plain, usual_batch())
    further = [group for group in SCHEMES[name] if group != "denoising"]
    assert set(losses) - set(expected) == decoder_losses(*further)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, atol=1e-5, rtol=1e-5, msg=key)
    with torch.no_grad():
        found, wanted = model.eval()(usual_batch()), plain.eval()(usual_batch())
    for one, other in zip(found, wanted, strict=True):
        one, other = one["instances"], other["instances"]
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
