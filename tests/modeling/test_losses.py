"""Losses by hand, and the one collective in which all normalizers travel."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch.utils._python_dispatch import TorchDispatchMode

from co_detr.modeling.losses import FocalLoss, LossTerm, QualityFocalLoss, normalize


def logit(probability):
    return math.log(probability / (1 - probability))


def by_class(loss, logits, classes, quality):
    """The loss of each class alone: (..., num_classes)."""
    each = torch.eye(logits.shape[-1]).bool()
    return torch.stack([loss(logits, classes, quality, scored) for scored in each], dim=-1)


def test_focal_loss_by_hand():
    # probabilities of two classes for an object of class 1 and for background (label 2)
    logits = torch.tensor([[0.2, 0.8], [0.5, 0.1]]).logit()
    loss = FocalLoss(alpha=0.25, gamma=2.0)
    classes, quality = torch.tensor([1, 2]), torch.zeros(2)
    expected = [
        [0.75 * 0.2**2 * -math.log(0.8), 0.25 * 0.2**2 * -math.log(0.8)],
        [0.75 * 0.5**2 * -math.log(0.5), 0.75 * 0.1**2 * -math.log(0.9)],
    ]
    expected = torch.tensor(expected)
    torch.testing.assert_close(by_class(loss, logits, classes, quality), expected)
    torch.testing.assert_close(loss(logits, classes, quality), expected.sum(-1))


def test_quality_focal_loss_by_hand():
    logits = torch.tensor([[0.2, 0.8], [0.5, 0.1]]).logit()
    quality = torch.tensor([0.6, 0.9])  # of background it does not count
    loss, classes = QualityFocalLoss(beta=2.0), torch.tensor([1, 2])
    matched = -(0.6 * math.log(0.8) + 0.4 * math.log(0.2)) * (0.8 - 0.6) ** 2
    expected = [
        [-math.log(0.8) * 0.2**2, matched],
        [-math.log(0.5) * 0.5**2, -math.log(0.9) * 0.1**2],
    ]
    expected = torch.tensor(expected)
    torch.testing.assert_close(by_class(loss, logits, classes, quality), expected)
    torch.testing.assert_close(loss(logits, classes, quality), expected.sum(-1))


def test_a_quality_of_one_and_the_right_answer_cost_nothing():
    logits = torch.tensor([[30.0, -30.0]])
    loss = QualityFocalLoss()(logits, torch.tensor([0]), torch.ones(1))
    torch.testing.assert_close(loss, torch.zeros(1))


@pytest.mark.parametrize("loss", [FocalLoss(), QualityFocalLoss()])
def test_losses_of_extreme_logits_are_finite(loss):
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    for label in (0, 1, 2):
        value = loss(logits, torch.tensor([label]), torch.full((1,), 0.5))
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


def test_normalize_divides_each_sum_by_its_own_count():
    weight = torch.tensor(2.0, requires_grad=True)
    losses = normalize(
        {
            "a": LossTerm(3 * weight, torch.tensor(4)),
            "b": LossTerm(5 * weight, 0.5),  # counts as one
            "c": LossTerm(7 * weight, 0),
            "d": LossTerm(9 * weight, torch.tensor(4.5, requires_grad=True)),
        }
    )
    assert list(losses) == ["a", "b", "c", "d"]
    values = [loss.item() for loss in losses.values()]
    assert values == pytest.approx([6 / 4, 10.0, 14.0, 18 / 4.5])
    sum(losses.values()).backward()
    assert weight.grad.item() == pytest.approx(3 / 4 + 5 + 7 + 9 / 4.5)


def test_normalize_copies_no_numbers_to_the_device():
    made = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made.extend(args[:1] if "lift_fresh" in str(func) else [])
            return func(*args, **(kwargs or {}))

    total = torch.tensor(6.0, requires_grad=True)
    count = torch.tensor(3)
    with Noted():
        losses = normalize({"a": LossTerm(total, 4), "b": LossTerm(total, count)})
    assert [loss.item() for loss in losses.values()] == [1.5, 2.0]
    assert not made


def test_normalize_of_nothing():
    assert normalize({}) == {}


def one_rank(rank, address, results):
    """A rank with its own sums and counts; rank 1 has no boxes at all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    calls = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda *args, **kwargs: (calls.append(1), all_reduce(*args, **kwargs))
    weight = torch.tensor(1.0, requires_grad=True)
    totals, counts = ((12.0, 5.0, 3.0), (6, 1, 0)) if rank == 0 else ((0.0, 4.0, 1.0), (0, 0, 0))
    losses = normalize(
        {
            name: LossTerm(total * weight, torch.tensor(count))
            for name, total, count in zip("abc", totals, counts)
        }
    )
    (gradient,) = torch.autograd.grad(sum(losses.values()), weight)
    results.put((rank, [x.item() for x in losses.values()], gradient.item(), len(calls)))
    dist.barrier()
    dist.destroy_process_group()


def test_ranks_share_their_normalizers_in_one_collective(tmp_path):
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    address = f"file://{tmp_path / 'rendezvous'}"
    ranks = [context.Process(target=one_rank, args=(rank, address, results)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0, 0]
    # mean counts over the ranks: 3, 0.5 and 0, of which the last two count as one
    assert sorted(results.get() for _ in ranks) == [
        (0, [4.0, 5.0, 3.0], 12.0, 1),
        (1, [0.0, 4.0, 1.0], 5.0, 1),
    ]
