"""Who sees whom, worked out by hand."""

import pytest
import torch

from co_detr.modeling.queries.group import FixedTargets, HungarianTargets, QueryGroup, visibility

C = 4


def group(name, num_queries, num_images=2, reference_dim=4, **kwargs):
    return QueryGroup(
        name=name,
        content=torch.zeros(num_images, num_queries, C),
        reference=torch.full((num_images, num_queries, reference_dim), 0.5),
        targets=HungarianTargets(),
        **kwargs,
    )


def matrix(*rows):
    return torch.tensor([[cell == "x" for cell in row] for row in rows])


def test_a_plain_group_sees_all_of_itself_and_nothing_else():
    first, second = visibility([group("matching", 3), group("other", 2)])
    assert (first.queries, first.keys, first.mask) == (slice(0, 3), (slice(0, 3),), None)
    assert (second.queries, second.keys, second.mask) == (slice(3, 5), (slice(3, 5),), None)


def test_blocks_are_blind_to_each_other_but_not_to_the_group_they_see():
    spans = visibility(
        [group("denoising", 4, sees=("matching",), num_blocks=2), group("matching", 3)]
    )
    assert spans[0].queries == slice(0, 4)
    assert spans[0].keys == (slice(0, 4), slice(4, 7))
    expected = matrix("xx..xxx", "xx..xxx", "..xxxxx", "..xxxxx")
    assert torch.equal(spans[0].mask.expand(2, 1, 4, 7), expected.expand(2, 1, 4, 7))
    # the other direction is closed
    assert (spans[1].keys, spans[1].mask) == ((slice(4, 7),), None)


def test_validity_hides_padding_from_others_but_not_from_itself():
    valid = matrix("xxx", "x..")
    (span,) = visibility([group("customized/atss", 3, valid=valid)])
    assert span.mask.shape == (2, 1, 3, 3)
    assert torch.equal(span.mask[0, 0], matrix("xxx", "xxx", "xxx"))
    assert torch.equal(span.mask[1, 0], matrix("x..", "xx.", "x.x"))


def test_padding_of_a_seen_group_is_hidden_as_well():
    valid = matrix("x.", ".x")
    groups = [group("a", 2, valid=valid), group("b", 2, sees=("a",))]
    span = visibility(groups)[1]
    assert span.keys == (slice(2, 4), slice(0, 2))  # itself first
    assert torch.equal(span.mask[0, 0], matrix("xxx.", "xxx."))
    assert torch.equal(span.mask[1, 0], matrix("xx.x", "xx.x"))


def test_blocks_and_validity_together():
    valid = matrix("xxx.", "..xx")
    (span,) = visibility([group("denoising", 4, valid=valid, num_blocks=2)])
    assert torch.equal(span.mask[0, 0], matrix("xx..", "xx..", "..x.", "..xx"))
    assert torch.equal(span.mask[1, 0], matrix("x...", ".x..", "..xx", "..xx"))


def test_a_group_of_nothing_but_padding_sees_itself():
    valid = torch.zeros(2, 3, dtype=torch.bool)
    (span,) = visibility([group("denoising", 3, valid=valid)])
    assert torch.equal(span.mask[:, 0], torch.eye(3).bool().expand(2, 3, 3))


def test_spans_cut_the_keys_they_name():
    span = visibility([group("a", 2), group("b", 3), group("c", 1, sees=("a",))])[2]
    keys = torch.arange(6.0).view(1, 1, 6, 1)
    assert span.keys_of(keys).flatten().tolist() == [5, 0, 1]


def test_two_groups_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two query groups are called 'a'"):
        visibility([group("a", 2), group("a", 3)])


def test_seeing_a_group_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"'a' sees \['ghost'\], groups are \['a', 'b'\]"):
        visibility([group("a", 2, sees=("b", "ghost")), group("b", 3)])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reference": torch.zeros(2, 3, 4)}, r"reference \(2, 3, 4\)"),
        ({"reference": torch.zeros(2, 4, 3)}, r"reference \(2, 4, 3\)"),
        ({"valid": torch.ones(4, dtype=torch.bool)}, r"valid has shape \(4,\)"),
        ({"position": torch.zeros(2, 4, C + 1)}, r"position \(2, 4, 5\)"),
        ({"num_blocks": 3}, "4 queries in 3 blocks"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    arguments = {"content": torch.zeros(2, 4, C), "reference": torch.zeros(2, 4, 4)} | change
    targets = FixedTargets(torch.zeros(2, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=f"'customized/atss'.*{message}"):
        QueryGroup("customized/atss", targets=targets, **arguments)
