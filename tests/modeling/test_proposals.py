"""Two-stage proposals of real classes against the same written out over all tokens."""

import pytest
import torch

from co_detr.modeling.transformer import proposals as module
from co_detr.modeling.transformer.encoder import EncoderMemory
from co_detr.modeling.transformer.proposals import TwoStageProposals

SHAPES, C, K = [(4, 5), (2, 3)], 8, 7
S = 26


def encoder_memory(N=2):
    """The last column of the first image is padding."""
    torch.manual_seed(0)
    padding = torch.zeros(N, S, dtype=torch.bool)
    padding[0, 4:20:5] = True
    cells = torch.tensor([[w, h] for h, w in SHAPES]).expand(N, -1, -1).clone()
    cells[0, 0, 0] = 4
    tokens = torch.randn(N, S, C, dtype=torch.float64, requires_grad=True)
    return EncoderMemory(tokens, padding, SHAPES, cells)


def written_out(layer, memory, num_extra):
    """Classes and boxes of all tokens, of which the best are kept."""
    base = layer.base_boxes(memory)
    tokens = memory.tokens.masked_fill(base.isinf().any(-1, keepdim=True), 0.0)
    tokens = layer.output_norm(layer.output(tokens))
    logits, boxes = layer.class_branch(tokens), (layer.box_branch(tokens) + base).sigmoid()
    index = logits.max(-1).values.topk(layer.num_proposals + num_extra, dim=1).indices
    images = torch.arange(len(index))[:, None]
    few = index[:, : layer.num_proposals]
    return index, boxes[images, index], logits[images, few], boxes[images, few]


@pytest.mark.parametrize("pairs", [1, 4 * K, 2**22])  # a token of an image at once, four, all
@pytest.mark.parametrize("training", [True, False])
def test_the_chosen_tokens_alone_give_the_same(pairs, training, monkeypatch):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)
    memory = encoder_memory()
    layer = TwoStageProposals(
        embed_dim=C, num_classes=K, num_proposals=6, num_extra=3, class_agnostic=False
    )
    layer.double().train(training)
    for parameter in layer.box_branch.parameters():
        torch.nn.init.normal_(parameter)
    found = layer(memory)
    expected = written_out(layer, memory, 3 if training else 0)
    got = found.index, found.reference, found.logits, found.boxes
    for ours, theirs in zip(got, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not found.reference.requires_grad

    leaves = [memory.tokens, *layer.parameters()]
    weights = torch.rand_like(found.logits), torch.rand_like(found.boxes)
    gradients = [
        torch.autograd.grad((logits * weights[0]).sum() + (boxes * weights[1]).sum(), leaves)
        for logits, boxes in ((found.logits, found.boxes), expected[2:])
    ]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
