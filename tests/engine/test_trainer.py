"""The training step alone: what is summed, clipped, logged, refused and repeated."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from co_detr.engine.trainer import Trainer, step_seed


class Scale(nn.Module):
    """Pulls one weight w towards the data x: losses (w - x)^2 and w / 2, and a mere number."""

    def __init__(self, start=4.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start]))

    def forward(self, data):
        return {
            "a/loss_square": ((self.weight - data) ** 2).sum(),
            "a/loss_size": 0.5 * self.weight.sum(),
            "a/accuracy": self.weight.detach().sum() * 100,
        }


def make(model=None, data=None, **options):
    model = Scale() if model is None else model
    data = itertools.repeat(torch.ones(1)) if data is None else data
    return Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def latest(trainer):
    return {name: value for name, (value, _) in trainer.storage.latest().items()}


def test_losses_are_summed_and_other_numbers_are_not():
    trainer = make()
    trainer.train(0, 1)
    values = latest(trainer)
    assert values["a/loss_square"] == 9.0 and values["a/loss_size"] == 2.0
    assert values["a/accuracy"] == 400.0
    assert values["total_loss"] == 11.0
    # gradient 2 (4 - 1) + 0.5 = 6.5
    assert trainer.model.weight.item() == pytest.approx(4 - 0.65)


def test_gradients_are_clipped_to_the_norm():
    trainer = make(clip_grad=dict(max_norm=0.1, norm_type=2))
    trainer.train(0, 1)
    assert trainer.model.weight.item() == pytest.approx(4 - 0.1 * 0.1, abs=1e-6)
    assert latest(trainer)["grad_norm"] == pytest.approx(6.5)


def test_gradients_below_the_norm_stay():
    trainer = make(clip_grad=dict(max_norm=10.0))
    trainer.train(0, 1)
    assert trainer.model.weight.item() == pytest.approx(4 - 0.65)


def test_clipping_takes_the_norm_over_all_parameters():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def forward(self, data):
            return {"loss": (3 * self.a + 4 * self.b).sum()}

    trainer = make(Two(), clip_grad=dict(max_norm=1.0))
    trainer.train(0, 1)
    # the gradient (3, 4) of norm 5 becomes (0.6, 0.8)
    assert trainer.model.a.item() == pytest.approx(-0.06, abs=1e-6)
    assert trainer.model.b.item() == pytest.approx(-0.08, abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight(value):
    trainer = make(data=iter([torch.ones(1), torch.tensor([value])]))
    with pytest.raises(FloatingPointError, match=r"^a/loss_square is (nan|inf) at iteration=1;"):
        trainer.train(0, 3)
    assert trainer.model.weight.item() == pytest.approx(4 - 0.65)


def test_a_number_that_is_no_loss_need_not_be_finite():
    class Odd(Scale):
        def forward(self, data):
            return super().forward(data) | {"a/accuracy": torch.tensor(math.nan)}

    trainer = make(Odd())
    trainer.train(0, 1)
    assert math.isnan(latest(trainer)["a/accuracy"])


class Rooted(Scale):
    """A finite loss, 0, whose gradient is infinite."""

    def forward(self, data):
        return {"loss": torch.sqrt(self.weight - self.weight.detach()).sum()}


def test_a_gradient_that_is_not_finite_changes_no_weight():
    trainer = make(Rooted(), clip_grad=dict(max_norm=0.1))
    with pytest.raises(FloatingPointError, match=r"gradient norm is (inf|nan) at iteration=0"):
        trainer.train(0, 1)
    assert trainer.model.weight.item() == 4.0


def test_a_model_without_a_loss_is_refused():
    class Mute(Scale):
        def forward(self, data):
            return {"a/accuracy": self.weight.sum()}

    with pytest.raises(ValueError, match="a/accuracy"):
        make(Mute()).train(0, 1)


def test_a_model_in_evaluation_mode_is_refused():
    trainer = make()
    trainer.model.eval()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        trainer.train(0, 1)


class Noisy(Scale):
    """Keeps what it draws in every step."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, data):
        self.drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        return super().forward(data)


def drawn(start, stop, seed=0, hooks=()):
    trainer = make(Noisy(), seed=seed)
    trainer.register_hooks(hooks)
    trainer.train(start, stop)
    return trainer.model.drawn


def test_the_scalars_of_a_long_run_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("co_detr.engine.trainer.HISTORY", 3)
    trainer = make()
    trainer.train(0, 5)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [2, 3, 4]


def test_hooks_see_the_gradients_of_the_whole_batch_before_they_are_clipped():
    seen = []

    class Look(HookBase):
        def after_backward(self):
            seen.append(self.trainer.model.weight.grad.item())

    trainer = make(clip_grad=dict(max_norm=0.1))
    trainer.register_hooks([Look()])
    trainer.train(0, 1)
    assert seen == [6.5]


def test_random_numbers_of_a_step_depend_on_seed_and_iteration_alone():
    class Spend(HookBase):
        def after_step(self):
            random.random(), np.random.rand(), torch.rand(1)

    whole = drawn(0, 5)
    assert drawn(3, 5) == whole[3:]
    assert drawn(0, 5, hooks=[Spend()]) == whole
    other = drawn(0, 5, seed=1)
    assert len({x for row in whole + other for x in row}) == 30


def test_seeds_of_steps_and_ranks_differ():
    seeds = {step_seed(*key) for key in itertools.product((0, 1), range(3), range(50))}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**32 for seed in seeds)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen = []

    def forward(self, data):
        out = self.layer(data)
        self.seen.append(out.dtype)
        return {"loss": out.float().pow(2).mean()}


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_runs_the_model_in_it_and_keeps_the_weights(dtype, device):
    torch.manual_seed(0)
    model = Layer().to(device)
    data = itertools.repeat(torch.ones(2, 4, device=device))
    trainer = make(model, data, amp_dtype=dtype, clip_grad=dict(max_norm=100.0))
    trainer.train(0, 12)
    assert set(model.seen) == {dtype}
    assert model.layer.weight.dtype == torch.float32
    # the norm is that of the gradients, not of the scaled ones
    norms = [value for value, _ in trainer.storage.history("grad_norm").values()]
    assert 0 < norms[-1] < norms[0] < 10


def test_the_scale_of_float16_losses_is_saved_and_restored():
    def half():
        return make(Layer(), itertools.repeat(torch.ones(2, 4)), amp_dtype=torch.float16)

    trainer, other = half(), half()
    trainer.train(0, 1)
    trainer.grad_scaler.update(new_scale=128.0)
    other.load_state_dict(trainer.state_dict())
    assert other.grad_scaler.get_scale() == 128.0
    assert other.iter == 1
