"""Deformable attention as an operator of PyTorch, its second entry, and the choice of what runs."""

import logging

import pytest
import torch
from torch import library

from co_detr.ops.ms_deform_attn import (
    choice,
    cpu,
    ms_deform_attn,
    ms_deform_attn_from_offsets,
    ms_deform_attn_reference,
    operator,
)

SHAPES = [(4, 3), (2, 2), (1, 1)]
FLAT = [4, 3, 2, 2, 1, 1]
VALID_RATIOS = torch.tensor([[[1.0, 1.0]] * 3, [[2 / 3, 3 / 4], [1 / 2, 1.0], [1.0, 1.0]]]).double()


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch):
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    choice._say_once.cache_clear()


def from_offsets_inputs(kind="boxes", *, N=2, Q=5, M=2, D=3, P=2, dtype=torch.float64):
    """What a layer has: value, centers, scale, offsets and logits.

    Encoder: all cells look around themselves in units of a cell. Points and boxes: queries of a
    decoder, in units of a cell or of half a box over P.
    """
    generator = torch.Generator().manual_seed(5)
    random = [torch.rand(N, Q, size, generator=generator, dtype=dtype) for size in (2, 2)]
    cell = torch.tensor([(1 / w, 1 / h) for h, w in SHAPES], dtype=dtype)[None, None]
    ratios = VALID_RATIOS.to(dtype)[:N, None]
    if kind == "encoder":
        own = torch.cat(
            [
                torch.cartesian_prod(torch.arange(h) + 0.5, torch.arange(w) + 0.5).flip(1)
                / torch.tensor([w, h])
                for h, w in SHAPES
            ]
        )
        Q = len(own)
        centers, scale = own[None, :, None] * ratios, cell
    else:
        centers = random[0][:, :, None] * ratios
        scale = cell if kind == "points" else random[1][:, :, None] * ratios * (0.5 / P)
    value = torch.randn(N, 17, M, D, generator=generator, dtype=dtype)
    offsets = 2 * torch.randn(N, Q, M, 3, P, 2, generator=generator, dtype=dtype)
    logits = 2 * torch.randn(N, Q, M, 3, P, generator=generator, dtype=dtype)
    return value, centers, scale, offsets, logits


def run(function, inputs):
    """Output and the gradients of sum(output * [1, 2, 3, ...])."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(inputs[0], SHAPES, *inputs[1:])
    factors = torch.arange(1, output.numel() + 1, dtype=output.dtype).view_as(output)
    return output.detach(), *torch.autograd.grad((output * factors).sum(), inputs)


def by_definition(value, shapes, centers, scale, offsets, logits):
    N, Q, M, L, P = logits.shape
    weights = logits.exp() / logits.exp().sum((3, 4), keepdim=True)
    locations = offsets * scale.view(*scale.shape[:2], 1, L, 1, 2) + centers.view(N, Q, 1, L, 1, 2)
    return ms_deform_attn_reference(value, shapes, locations, weights)


def by_operator(value, shapes, centers, scale, offsets, logits):
    frame = [x.expand(*offsets.shape[:2], 3, 2) for x in (centers, scale)]
    return operator.sample_from_offsets(value, FLAT, *frame, offsets, logits)


# ---------------------------------------------------------------- what PyTorch asks of operators


@pytest.mark.parametrize("needs_grad", [(), (0, 2)])
def test_the_operator_keeps_pytorch_s_rules(needs_grad):
    value, *_, offsets, logits = from_offsets_inputs()
    inputs = [x.requires_grad_(i in needs_grad) for i, x in enumerate((value, offsets, logits))]
    library.opcheck(operator.sample, (inputs[0], FLAT, *inputs[1:]))


@pytest.mark.parametrize("needs_grad", [(), (1, 3, 4)])
def test_the_operator_from_offsets_keeps_pytorch_s_rules(needs_grad):
    inputs = [x.requires_grad_(i in needs_grad) for i, x in enumerate(from_offsets_inputs())]
    library.opcheck(operator.sample_from_offsets, (inputs[0], FLAT, *inputs[1:]))


@pytest.mark.parametrize("needs", [(False, True), (True, False)])
def test_the_backward_operators_keep_pytorch_s_rules(needs):
    value, centers, scale, offsets, logits = from_offsets_inputs()
    grad = torch.randn(2, 5, 6, dtype=value.dtype)
    library.opcheck(operator.sample_backward, (grad, value, FLAT, offsets, logits, *needs))
    inputs = (value, FLAT, centers, scale, offsets, logits)
    library.opcheck(operator.sample_from_offsets_backward, (grad, *inputs, *needs, needs[0]))


def test_a_second_derivative_is_refused():
    value, *_, offsets, logits = (x.requires_grad_() for x in from_offsets_inputs())
    output = ms_deform_attn(value, SHAPES, offsets, logits)
    (grad,) = torch.autograd.grad(output.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()


# ---------------------------------------------------------------- from offsets and logits


@pytest.mark.parametrize("function", [ms_deform_attn_from_offsets, by_operator])
@pytest.mark.parametrize("kind", ["encoder", "points", "boxes"])
def test_both_entries_agree(kind, function):
    inputs = from_offsets_inputs(kind)
    for ours, theirs in zip(run(function, inputs), run(by_definition, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_gradients_from_offsets_agree_with_finite_differences():
    inputs = [x.requires_grad_() for x in from_offsets_inputs(Q=3, D=2)]
    assert torch.autograd.gradcheck(lambda value, *x: by_operator(value, SHAPES, *x), inputs)


def test_the_softmax_is_taken_in_float32():
    inputs = from_offsets_inputs(dtype=torch.float32)
    low = [x.bfloat16() for x in inputs]
    output = ms_deform_attn_from_offsets(low[0], SHAPES, *inputs[1:3], *low[3:])
    exact = by_definition(low[0].float(), SHAPES, *inputs[1:3], *(x.float() for x in low[3:]))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16(), atol=0, rtol=2**-8)  # one rounding


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("attention_logits", torch.zeros(2, 5, 2, 6), "attention_logits must be"),
        ("offsets", torch.zeros(2, 5, 2, 3, 1, 2), "offsets must be attention_logits' shape plus"),
        ("centers", torch.zeros(2, 5, 2), r"centers must be broadcastable to \(N, Q, levels, 2\)"),
        ("offset_scale", torch.zeros(2, 5, 3, 4), r"= \(2, 5, 3, 2\), got \(2, 5, 3, 4\)"),
    ],
)
def test_offsets_that_do_not_fit_are_named(name, wrong, message):
    names = ("value", "centers", "offset_scale", "offsets", "attention_logits")
    arguments = dict(zip(names, from_offsets_inputs())) | {name: wrong}
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_from_offsets(spatial_shapes=SHAPES, **arguments)


# ---------------------------------------------------------------- which implementation runs


class Core(torch.nn.Module):
    def forward(self, value, locations, weights):
        return ms_deform_attn(value, SHAPES, locations, weights)


@pytest.fixture
def broken_cpu(monkeypatch):
    def fail(*args):
        raise AssertionError("The CPU implementation was called.")

    monkeypatch.setattr(cpu, "forward", fail)


@pytest.fixture
def inputs():
    value, *_, offsets, logits = from_offsets_inputs(dtype=torch.float32)
    return value, offsets / 4 + 0.5, logits


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_graphs_for_elsewhere_and_other_devices_take_the_reference(broken_cpu, inputs):
    with pytest.raises(AssertionError, match="CPU implementation"):
        Core()(*inputs)
    assert Core()(*(x.to("meta") for x in inputs)).shape == (2, 5, 6)

    traced = torch.jit.trace(Core(), inputs, check_trace=False)  # the check runs eagerly
    exported = torch.export.export(Core(), inputs)
    assert not any("co_detr" in str(node.target) for node in exported.graph.nodes)
    value, locations, weights = inputs
    expected = ms_deform_attn_reference(value, SHAPES, locations + 0.2, weights)
    for graph in (traced, exported.module()):
        torch.testing.assert_close(graph(value, locations + 0.2, weights), expected)


def test_a_watched_call_is_one_operator(inputs):
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    with Watch():
        watched = Core()(*inputs)
    assert seen == ["co_detr.ms_deform_attn.default"]
    assert torch.equal(watched, Core()(*inputs))


def test_the_variable_forces_the_reference(broken_cpu, inputs, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "reference")
    value, locations, weights = inputs
    assert torch.equal(Core()(*inputs), ms_deform_attn_reference(value, SHAPES, locations, weights))


@pytest.mark.parametrize(
    ("forced", "device", "message"),
    [
        ("cuda", "cpu", "CO_DETR_MS_DEFORM_ATTN=cuda is none of reference, cpu, triton"),
        ("cpu", "cuda", "=cpu cannot run on cuda: move the model to the CPU, or unset it"),
        ("triton", "cpu", "=triton cannot run on cpu: move the model to a CUDA device"),
    ],
)
def test_what_cannot_be_forced_is_said(forced, device, message, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, forced)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choice, "_has_triton", lambda: True)
    with pytest.raises(ValueError, match=message):
        choice.implementation_for(device)


@pytest.mark.parametrize(
    ("device", "has_triton", "chosen", "said"),
    [
        ("cpu", True, "cpu", "cpu: cpu implementation (the fast one for the CPU)."),
        ("cuda", True, "triton", "cuda: triton implementation (the fast one for CUDA)."),
        (
            "cuda",
            False,
            "reference",
            "cuda: reference implementation (for the fast one, install the package triton).",
        ),
        (
            "mps",
            True,
            "reference",
            "mps: reference implementation (there is no faster one for mps).",
        ),
    ],
)
def test_the_log_names_the_choice_once(device, has_triton, chosen, said, caplog, monkeypatch):
    monkeypatch.setattr(choice, "_has_triton", lambda: has_triton)
    with caplog.at_level(logging.INFO):
        assert [choice.implementation_for(device) for _ in range(2)] == [chosen] * 2
    assert caplog.messages == [f"Deformable attention on {said}"]


def test_triton_must_be_there_to_be_forced(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "triton")
    monkeypatch.setattr(choice, "_has_triton", lambda: False)
    with pytest.raises(ValueError, match="cannot run on cuda: install the package triton"):
        choice.implementation_for("cuda")
