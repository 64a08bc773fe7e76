"""Focal losses that keep nothing against the same losses written out over all pairs."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from co_detr.modeling import focal
from co_detr.modeling.focal import background_and_own
from co_detr.modeling.losses import FocalLoss, QualityFocalLoss

K = 5


def written_out(loss, logits, classes, quality, scored):
    """The loss of every pair, from targets for every pair, summed over the scored classes."""
    own = classes[..., None] == torch.arange(K)
    if isinstance(loss, FocalLoss):
        target = own.to(logits.dtype)
        pairs = sigmoid_focal_loss(logits, target, alpha=loss.alpha, gamma=loss.gamma)
    else:
        target = own * quality[..., None]
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        pairs = entropy * (target - logits.sigmoid()).abs() ** loss.beta
    return (pairs if scored is None else pairs * scored).sum(-1)


LOSSES = {
    "focal": FocalLoss(),
    "focal without alpha": FocalLoss(alpha=-1.0),
    "focal, odd gamma": FocalLoss(alpha=0.4, gamma=1.5),
    "focal, gamma 0": FocalLoss(gamma=0.0),
    "quality focal": QualityFocalLoss(),
    "quality focal, odd beta": QualityFocalLoss(beta=1.5),
}
CLASSES = {
    "mixed": [[0, K, 4], [-1, 2, 2]],
    "all background": [[K] * 3] * 2,
    "all objects": [[0, 1, 2], [4, 4, 0]],
    "no queries": [[], []],
}
SCORED = {"all": None, "some": [1, 0, 1, 1, 0], "none": [0] * K}


@pytest.mark.parametrize("scored", SCORED.values(), ids=SCORED)
@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_and_gradients_are_those_of_all_pairs(loss, classes, scored, monkeypatch):
    monkeypatch.setattr(focal, "PAIRS_AT_ONCE", 2 * K + 1)  # two rows at once
    torch.manual_seed(0)
    classes = torch.tensor(classes, dtype=torch.int64)
    logits = (4 * torch.randn(*classes.shape, K, dtype=torch.float64)).requires_grad_()
    quality = torch.rand(classes.shape, dtype=torch.float64)
    quality[..., :1] = 0  # an object whose box is nowhere near
    scored = None if scored is None else torch.tensor(scored).bool()
    weights = torch.rand(classes.shape, dtype=torch.float64)
    weights[..., -1:] = 0  # as of a padding query
    values = []
    for function in (loss, lambda *args: written_out(loss, *args)):
        value = function(logits, classes, quality, scored)
        assert value.shape == classes.shape
        values.append((value, *torch.autograd.grad((value * weights).sum(), logits)))
    for ours, expected in zip(*values):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_the_split_passes_gradcheck(monkeypatch):
    monkeypatch.setattr(focal, "PAIRS_AT_ONCE", K)
    torch.manual_seed(0)
    logits = torch.randn(4, K, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([1, K, 0, -1])
    for scored in (None, torch.tensor([True, False, True, True, False])):
        assert torch.autograd.gradcheck(
            lambda x, scored=scored: background_and_own(x, classes, 2.0, scored)[:2], logits
        )


def test_the_loss_of_a_sure_and_right_answer_is_not_rounded_away():
    """Its own class must not go into the sum of the others and out again."""
    logits = torch.tensor([[16.0, -16.0, -16.0]])
    loss = FocalLoss(alpha=0.25, gamma=0.0)(logits, torch.tensor([0]))
    expected = (0.25 + 2 * 0.75) * torch.tensor([-16.0]).exp()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_only_the_logits_and_one_number_per_row_are_kept():
    rows, kept = 64, {}
    logits = torch.randn(rows, 1203, requires_grad=True)

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = QualityFocalLoss()(logits, torch.arange(rows), torch.rand(rows), torch.ones(1203))
    kept.pop(logits.untyped_storage().data_ptr())
    assert sum(kept.values()) < logits.nbytes / 4
    loss.sum().backward()
