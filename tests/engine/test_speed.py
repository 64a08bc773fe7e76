"""Options that make steps faster: losses, checkpoints and resumed runs stay what they were."""

import copy
import logging

import pytest
import torch
from detectors import MODELS, build, make_input, train_step, usual_batch
from jobs import CO_DETR, arguments, assert_same_run, losses
from torch import nn

from co_detr.engine import main, speed
from co_detr.engine.optimizer_state import laid_out_like


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- compilation


class Counting:
    """A backend that runs what dynamo captured, and counts the captures."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.fixture
def dynamo(monkeypatch):
    """Nothing compiled before or afterwards, and none of its traces among the records of a test."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def off_the_grid(model):
    """Samples of new models lie on cells' centres, where rounding decides the slope."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter += 0.1 + 0.3 * torch.rand(parameter.shape, generator=generator)
    return model


def batch_of(height, width):
    objects = [[8, 8, 40, 50], [30, 4, 60, 60]]
    return [
        make_input(height, width, objects, seed=1),
        make_input(height - 8, width, objects[1:], seed=2),
    ]


def test_compiled_layers_compute_the_same_for_images_of_all_sizes(dynamo):
    """What runs in place of the CPU's own kernels rounds differently, and so do gradients."""
    plain, compiled = (off_the_grid(build(MODELS["two-heads"]())) for _ in range(2))
    backend = Counting()
    speed.compile_layers(compiled, backend)
    counts = []
    for size in [(136, 200), (180, 130), (200, 210), (136, 260)]:
        expected, found = (train_step(model, batch_of(*size)) for model in (plain, compiled))
        torch.testing.assert_close(dict(found), dict(expected), atol=1e-4, rtol=1e-4)
        counts.append(backend.count)
    for name, gradient in gradients(plain).items():
        found = gradients(compiled)[name]
        torch.testing.assert_close(found.norm(), gradient.norm(), atol=1e-4, rtol=5e-3, msg=name)
    assert counts[0] > 0 and counts[1] == counts[-1], counts
    assert list(compiled.state_dict()) == list(plain.state_dict())
    copied = copy.deepcopy(compiled)  # as averaging weights does
    assert list(copied.state_dict()) == list(plain.state_dict())


def test_what_has_no_layers_is_not_compiled_in_silence():
    with pytest.raises(ValueError, match="train.compile: .* no encoder or decoder layers"):
        speed.compile_layers(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="train.channels_last: .* no convolutions"):
        speed.use_channels_last(nn.Conv2d(1, 1, 1))


# ---------------------------------------------------------------- layout


def test_channels_last_computes_the_same():
    plain, changed = (build(MODELS["two-heads"]()) for _ in range(2))
    speed.use_channels_last(changed)
    expected, found = (train_step(model, usual_batch()) for model in (plain, changed))
    torch.testing.assert_close(dict(found), dict(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(changed), gradients(plain), atol=2e-3, rtol=2e-3)
    for name, value in plain.state_dict().items():
        assert torch.equal(changed.state_dict()[name], value)
    maps = changed.backbone(torch.rand(1, 3, 64, 64))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps.values())


# ---------------------------------------------------------------- optimizer


def updates(fused, layouts):
    """A weight after three updates; the layouts are its own and, after the first, its state's."""
    start, slope = torch.randn(2, 4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(start.contiguous(memory_format=layouts[0]))
    weight.grad = torch.empty_like(weight).copy_(slope)
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1, fused=fused)
    optimizer.step()
    state = optimizer.state[weight]
    for name in ("exp_avg", "exp_avg_sq"):
        saved = state[name].contiguous(memory_format=layouts[1])
        state[name] = laid_out_like(weight, saved)
    for factor in (2, -1):
        weight.grad.copy_(factor * slope.square())
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("own", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
def test_the_fused_update_is_the_same_in_all_layouts(own, saved):
    """Also of a state that was saved in the other layout: the kernel goes by memory, not shape."""
    expected = updates(None, (torch.contiguous_format,) * 2)
    torch.testing.assert_close(updates(True, (own, saved)), expected)


def test_a_state_of_another_shape_stays_as_it_is():
    step = torch.tensor(3.0)
    assert laid_out_like(nn.Parameter(torch.ones(2, 2)), step) is step


# ---------------------------------------------------------------- precision


def test_tf32_is_left_alone_unless_it_is_set(monkeypatch):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        speed.set_tf32(None)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == before
        for wanted in (True, False):
            speed.set_tf32(wanted)
            assert matmul.allow_tf32 == cudnn.allow_tf32 == wanted
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


# ---------------------------------------------------------------- whole runs

SHORT = ["train.max_iter=4", "train.checkpointer.max_to_keep=0"]
FAST = [
    *("train.compile.enabled=True", "train.compile.backend=eager", "train.channels_last=True"),
    *("train.recompute_blocks=2", "model.model.decoder.num_checkpointed=1"),
    *("optimizer.fused=True", "train.ema.enabled=True", "train.ema.decay=0.5"),
]


def test_a_run_with_all_options_resumes_exactly_and_loses_as_much_as_one_without(tmp_path, dynamo):
    whole, cut, plain = tmp_path / "whole", tmp_path / "cut", tmp_path / "plain"
    main(arguments(whole, *SHORT, *FAST, config=CO_DETR))
    with pytest.raises(FloatingPointError):
        main(arguments(cut, *SHORT, *FAST, "model.nan_at=3", config=CO_DETR))
    main(arguments(cut, *SHORT, *FAST, config=CO_DETR, resume=True))
    assert_same_run(cut, whole)
    main(arguments(plain, *SHORT, config=CO_DETR))

    def first(folder):
        return [float.fromhex(next(iter(losses(folder)[i])).split()[3]) for i in range(2)]

    (start, after), (plain_start, plain_after) = first(whole), first(plain)
    assert start == pytest.approx(plain_start, rel=1e-5)
    # the first update of AdamW has one size for all gradients, even where rounding gives the sign
    assert after == pytest.approx(plain_after, rel=1e-3)
    weights = [
        torch.load(folder / "model_0000001.pth", weights_only=True)["model"]
        for folder in (whole, plain)
    ]
    assert weights[0].keys() == weights[1].keys()
    # what was trained with the options goes on without them
    (cut / "model_final.pth").unlink()
    (cut / "last_checkpoint").write_text("model_0000001.pth")
    main(arguments(cut, *SHORT, config=CO_DETR, resume=True))
    assert (cut / "model_final.pth").exists()
