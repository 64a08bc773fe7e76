"""Recomputing encoder layers, or what follows their attention, in the backward pass: same
gradients, less kept for them."""

import pytest
import torch

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
    )
    encoder.train(training).double()  # sums of parts round, too
    for parameter in encoder.parameters():  # the first weights let no gradient through to some
        torch.nn.init.normal_(parameter, std=0.1)
    features = [torch.randn(1, 32, *size, dtype=torch.float64) for size in [(8, 10), (4, 5)]]
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
        torch.testing.assert_close(found[name], grad, msg=lambda text, name=name: f"{name}: {text}")


def test_what_follows_the_attention_is_not_kept():
    tokens, hidden, channels = 8 * 10 + 4 * 5, 64, 32
    # in each layer, what the second linear reads, and what both norms and the first linear read,
    # but for the attention's result, which takes its place
    least = 3 * tokens * (hidden + 2 * channels)
    assert run(ffn_tokens_at_once=33)[1] <= run()[1] - least


def test_no_tokens_at_once_are_refused():
    with pytest.raises(ValueError, match="at least 1, or None, got 0"):
        run(ffn_tokens_at_once=0)


def test_each_layer_more_keeps_less():
    kept = [run(count)[1] for count in range(4)]
    assert kept == sorted(kept, reverse=True)
    assert kept[3] < 0.2 * kept[0]


def test_evaluation_keeps_its_graph():
    assert run(3, training=False)[1] == run(0, training=False)[1]
