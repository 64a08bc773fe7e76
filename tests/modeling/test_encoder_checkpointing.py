"""Recomputing encoder layers, or their feed-forward networks, in the backward pass: same
gradients, less kept for them."""

import pytest
import torch

from co_detr.modeling.transformer.attention import FeedForward
from co_detr.modeling.transformer.encoder import DeformableEncoder
from co_detr.modeling.transformer.position_encoding import SinePositionEncoding


def run(num_checkpointed=0, training=True, **layer):
    """Gradients by name, and how many numbers the forward pass kept for the backward pass."""
    torch.manual_seed(0)
    encoder = DeformableEncoder(
        position_encoding=SinePositionEncoding(embed_dim=32),
        embed_dim=32,
        num_layers=3,
        num_heads=4,
        num_levels=2,
        ffn_dim=64,
        num_checkpointed=num_checkpointed,
        **layer,
    ).train(training)
    for parameter in encoder.parameters():  # the first weights let no gradient through to some
        torch.nn.init.normal_(parameter, std=0.1)
    features = [torch.randn(1, 32, 8, 10), torch.randn(1, 32, 4, 5)]
    padding = torch.zeros(1, 64, 80, dtype=torch.bool)
    padding[:, :, 60:] = True
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        tokens = encoder(features, padding).tokens
    (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters()}, kept


@pytest.mark.parametrize(
    "options",
    [
        {"num_checkpointed": 1},
        {"num_checkpointed": 3},
        {"ffn_tokens_at_once": 33},
        {"ffn_tokens_at_once": 1000},
        {"num_checkpointed": 3, "ffn_tokens_at_once": 33},
    ],
)
def test_gradients_do_not_change(options):
    expected, _ = run()
    found, _ = run(**options)
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert grad.any(), name
        torch.testing.assert_close(found[name], grad, msg=name)


def test_the_activations_of_the_ffn_are_not_kept():
    tokens, hidden = 8 * 10 + 4 * 5, 64
    least = 3 * tokens * hidden  # in each layer, what the second linear reads
    assert run(ffn_tokens_at_once=33)[1] <= run()[1] - least


def test_dropout_is_the_same_when_computed_again():
    """All weights 1, so an output is the sum of what is left of the hidden activations, and its
    gradient counts what is left."""
    ffn = FeedForward(embed_dim=1, hidden_dim=64, dropout=0.5, tokens_at_once=3)
    for parameter in ffn.parameters():
        torch.nn.init.ones_(parameter) if parameter.dim() > 1 else torch.nn.init.zeros_(parameter)
    x = torch.ones(1, 7, 1, requires_grad=True)
    output = ffn(x)
    assert len(output.unique()) > 1
    (gradient,) = torch.autograd.grad(output.sum(), x)
    torch.testing.assert_close(gradient, output)


def test_no_tokens_at_once_are_refused():
    with pytest.raises(ValueError, match="at least 1, or None, got 0"):
        FeedForward(tokens_at_once=0)


def test_each_layer_more_keeps_less():
    kept = [run(count)[1] for count in range(4)]
    assert kept == sorted(kept, reverse=True)
    assert kept[3] < 0.2 * kept[0]


def test_evaluation_keeps_its_graph():
    assert run(3, training=False)[1] == run(0, training=False)[1]
