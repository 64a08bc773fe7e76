"""Attention per encoder token, worked by hand and against what the attention modules return."""

import pytest
import torch
from torch import nn

from co_detr.analysis.attention import (
    attention_to_tokens,
    dense,
    recorded_cross_attention,
    scattered,
)
from co_detr.modeling.transformer.attention import DeformableAttention
from co_detr.modeling.transformer.conditional_attention import ConditionalCrossAttention
from co_detr.modeling.transformer.encoder import EncoderMemory


def samples(*points):
    """Locations (1, 1, 1, 1, P, 2) and weights (1, 1, 1, 1, P) of (x, y, weight)."""
    values = torch.tensor(points)
    return values[:, :2].view(1, 1, 1, 1, -1, 2), values[:, 2].view(1, 1, 1, 1, -1)


def test_a_sample_at_a_cells_quarter():
    # two cells with their centres at x = 0.25 and 0.75: x = 0.375 is a quarter of the way
    assert scattered([(1, 2)], *samples((0.375, 0.5, 1.0))).tolist() == [[0.75, 0.25]]


def test_samples_add_up_with_their_weights():
    points = (0.25, 0.25, 0.5), (0.5, 0.5, 0.4), (0.75, 0.5, 0.1)
    share = scattered([(2, 2)], *samples(*points))
    # a cell's centre; the middle of all four; the middle of the right two
    expected = torch.tensor([[0.5 + 0.1, 0.1 + 0.05, 0.1, 0.1 + 0.05]])
    torch.testing.assert_close(share, expected)


def test_what_lies_outside_of_the_map_is_lost():
    assert scattered([(1, 2)], *samples((0.0, 0.5, 1.0), (2.0, 0.5, 1.0))).tolist() == [[0.5, 0.0]]


def test_levels_follow_each_other():
    locations = torch.full((1, 1, 1, 2, 1, 2), 0.5)
    weights = torch.tensor([0.3, 0.7]).view(1, 1, 1, 2, 1)
    share = scattered([(1, 2), (1, 1)], locations, weights)
    torch.testing.assert_close(share, torch.tensor([[0.15, 0.15, 0.7]]))


def test_dense_attention_by_hand():
    # scores 0 and ln 3 of one query, ln 4 of a query that does not count; the last is padding
    query = torch.tensor([[[[1.0], [4.0]]]])
    key = torch.tensor([[[[0.0], [torch.log(torch.tensor(3.0)).item()], [9.0]]]])
    padding = torch.tensor([[False, False, True]])
    share = dense(query, key, padding, torch.tensor([[True, False]]))
    torch.testing.assert_close(share, torch.tensor([[0.25, 0.75, 0.0]]))


class OneLayer(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.layers = nn.ModuleList([nn.Module()])
        self.layers[0].cross_attention = attention


def transparent(attention, value, output):
    """An attention of one head whose output is a weighted sum of the tokens themselves."""
    for layer in (value, output):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return attention


def check_reconstruction(attention, inputs, tokens):
    """What queries get is the sum of the tokens by the attention to them."""
    with recorded_cross_attention(OneLayer(attention)) as calls, torch.no_grad():
        got = attention(*inputs)
    for counted in (torch.tensor([[True, False, False]]), torch.tensor([[True, False, True]])):
        with torch.no_grad():
            share = attention_to_tokens(calls, counted)
        torch.testing.assert_close(share @ tokens[0], got[0][counted[0]].sum(0, keepdim=True))
    attention(*inputs)
    assert len(calls) == 1  # the hook is gone


def test_deformable_attention_as_it_was_called():
    torch.manual_seed(0)
    attention = DeformableAttention(embed_dim=4, num_heads=1, num_levels=2, num_points=3)
    transparent(attention, attention.value_proj, attention.output_proj)
    nn.init.normal_(attention.sampling_offsets.weight)
    nn.init.normal_(attention.attention_weights.weight)
    tokens = torch.randn(1, 3 * 4 + 2 * 2, 4)
    centers, unit = torch.rand(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)
    padding = torch.zeros(1, 16, dtype=torch.bool)
    inputs = torch.randn(1, 3, 4), centers, unit, tokens, padding, [(3, 4), (2, 2)]
    check_reconstruction(attention, inputs, tokens)


@pytest.mark.parametrize("mix_position", [True, False])
def test_conditional_attention_as_it_was_called(mix_position):
    torch.manual_seed(0)
    attention = ConditionalCrossAttention(embed_dim=4, num_heads=1, mix_position=mix_position)
    transparent(attention, attention.value, attention.output)
    tokens, padding = torch.randn(1, 6, 4), torch.tensor([[False] * 4 + [True] * 2])
    memory = EncoderMemory(tokens, padding, [(2, 3)], torch.ones(1, 1, 2), torch.randn(1, 6, 4))
    inputs = *(torch.randn(1, 3, 4) for _ in range(3)), memory
    check_reconstruction(attention, inputs, tokens)


def test_an_unknown_attention_is_named():
    with pytest.raises(TypeError, match="attention of a Identity"):
        attention_to_tokens([(nn.Identity(), ())], torch.ones(1, 1, dtype=torch.bool))
