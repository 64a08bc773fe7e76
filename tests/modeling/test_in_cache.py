"""Tokens taken in parts on a CPU: the same values and gradients as all at once."""

import pytest
import torch

from co_detr.modeling.transformer import attention
from co_detr.modeling.transformer.encoder import DeformableEncoderLayer

SHAPES = [(3, 4), (1, 2)]


def run(monkeypatch, tokens_at_once):
    """What an encoder layer makes of two images, and the gradients of its inputs and weights."""
    monkeypatch.setattr(attention, "TOKENS_IN_CACHE", tokens_at_once)
    torch.manual_seed(0)
    layer = DeformableEncoderLayer(embed_dim=8, num_heads=2, num_levels=2, ffn_dim=16)
    tokens, position = torch.randn(2, 2, 14, 8, requires_grad=True)
    centers, scale = torch.rand(2, 14, 2, 2), torch.full((1, 1, 2, 2), 0.2)
    padding = torch.zeros(2, 14, dtype=torch.bool)
    padding[1, [3, 7, 11, 13]] = True
    output = layer(tokens, position, centers, scale, padding, SHAPES)
    with torch.no_grad():
        inferred = layer(tokens, position, centers, scale, padding, SHAPES)
    inputs = [tokens, position, *layer.parameters()]
    return output, inferred, *torch.autograd.grad((output * torch.randn_like(output)).sum(), inputs)


@pytest.mark.parametrize("tokens_at_once", [1, 5, 14, 27])
def test_parts_are_as_good_as_the_whole(monkeypatch, tokens_at_once):
    whole = run(monkeypatch, 28)
    for part, expected in zip(run(monkeypatch, tokens_at_once), whole, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


def test_no_more_than_that_at_once(monkeypatch):
    monkeypatch.setattr(attention, "TOKENS_IN_CACHE", 5)
    seen = []

    def add(x, y):
        seen.append((x.shape, y.shape))
        return x + y

    x, y = torch.rand(2, 3, 4, 7)
    torch.testing.assert_close(attention.in_cache(add, x, y), x + y)
    assert seen == [((5, 7), (5, 7)), ((5, 7), (5, 7)), ((2, 7), (2, 7))]
    assert attention.in_cache(add, x[:0], y[:0]).shape == (0, 4, 7)
