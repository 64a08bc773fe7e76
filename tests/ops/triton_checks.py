"""The Triton kernels against golden numbers and the reference; run by `test_triton.py`.

On a CPU they run in Triton's interpreter, which is slow: heads, points and queries are few here.
It executes one program after another in numpy, so that it cannot show races, types that do not
compile, how the hardware rounds (it cuts bfloat16 off), or how fast anything is.
"""

import os

import pytest
import torch
from safetensors.torch import load_file
from test_ms_deform_attn import CASES, DATA, INPUTS
from test_ms_deform_attn_operator import by_definition
from torch import library

from co_detr.modeling.transformer.attention import DeformableAttention
from co_detr.ops.ms_deform_attn import (
    choice,
    ms_deform_attn,
    ms_deform_attn_from_offsets,
    ms_deform_attn_reference,
    operator,
    triton,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "triton")


def random_samples(shapes, *, N=1, Q=5, M=1, D=4, P=1, dtype=torch.float64):
    """Value, points inside, across the border and outside of the maps, factors of both signs."""
    generator = torch.Generator().manual_seed(3)
    value = torch.randn(N, sum(h * w for h, w in shapes), M, D, generator=generator)
    points = torch.rand(N, Q, M, len(shapes), P, 2, generator=generator) * 2 - 0.5
    factors = torch.randn(N, Q, M, len(shapes), P, generator=generator)
    return [x.to(DEVICE, dtype) for x in (value, points, factors)]


def random_frame(shapes, *, N=1, Q=5, dtype=torch.float64):
    """Centers in the maps, and units between half a cell and two cells."""
    generator = torch.Generator().manual_seed(4)
    centers = torch.rand(N, Q, len(shapes), 2, generator=generator)
    cell = 1 / torch.tensor([(w, h) for h, w in shapes])
    scale = cell * (0.5 + 1.5 * torch.rand(N, Q, len(shapes), 2, generator=generator))
    return [x.to(DEVICE, dtype) for x in (centers, scale)]


def run(function, shapes, inputs, needed=None, grad_output=None):
    """Output, and the gradients that are needed."""
    needed = needed or [True] * len(inputs)
    inputs = [x.detach().clone().requires_grad_(need) for x, need in zip(inputs, needed)]
    output = function(inputs[0], shapes, *inputs[1:])
    if grad_output is None:
        grad_output = torch.arange(output.numel()).view_as(output) % 7 - 3  # exact in all dtypes
    output.backward(grad_output.to(output))
    return [output.detach(), *(x.grad for x in inputs)]


def exact(function, shapes, inputs, **options):
    return run(function, shapes, [x.double() for x in inputs], **options)


ENTRIES = {
    "locations": (ms_deform_attn, ms_deform_attn_reference),
    "offsets": (ms_deform_attn_from_offsets, by_definition),
}


def inputs_of(entry, shapes, *, dtype=torch.float64, frame_dtype=None, **sizes):
    value, points, factors = random_samples(shapes, dtype=dtype, **sizes)
    if entry == "locations":
        return value, points.to(frame_dtype or dtype), factors
    frame_sizes = {name: sizes[name] for name in ("N", "Q") if name in sizes}
    frame = random_frame(shapes, dtype=frame_dtype or dtype, **frame_sizes)
    return value, *frame, points, factors


@pytest.mark.parametrize("case", CASES)
def test_matches_official_operator(case):
    golden = load_file(DATA / "ms_deform_attn.safetensors", device=DEVICE)
    golden = {
        name.removeprefix(f"{case}."): x
        for name, x in golden.items()
        if name.startswith(f"{case}.")
    }
    shapes = [(h, w) for h, w in golden["spatial_shapes"].tolist()]
    heads = 2 if case == "borders" else 1  # its second head is another case
    inputs = [golden[name][:, :, :heads].double() for name in INPUTS]
    of_heads = slice(0, heads * inputs[0].shape[-1])
    output, *grads = run(ms_deform_attn, shapes, inputs, None, golden["grad_output"][..., of_heads])

    tolerance = {"atol": 1e-10, "rtol": 1e-10}
    torch.testing.assert_close(output, golden["output_f64"][..., of_heads], **tolerance)
    for name, grad in zip(INPUTS, grads):
        if case == "pixel_centres" and name == "sampling_locations":
            continue  # a kink: the derivatives from the left and from the right differ
        torch.testing.assert_close(grad, golden[f"grad_{name}_f64"][:, :, :heads], **tolerance)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("D", "P", "dtype"),
    [
        (16, 8, torch.float32),
        (32, 4, torch.bfloat16),
        (64, 1, torch.float16),
        (24, 1, torch.float32),
        (3, 1, torch.float64),
        (130, 1, torch.float32),
    ],
)
def test_channels_points_and_precisions(D, P, dtype, entry):
    shapes = [(3, 2), (1, 1)]
    frame_dtype = torch.promote_types(dtype, torch.float32)  # as layers have them
    inputs = inputs_of(entry, shapes, D=D, P=P, dtype=dtype, frame_dtype=frame_dtype)
    ours, reference = ENTRIES[entry]
    expected = exact(reference, shapes, inputs)
    likes = (inputs[0], *inputs)
    for actual, wanted, like in zip(run(ours, shapes, inputs), expected, likes):
        assert actual.dtype == like.dtype
        # a few roundings of the terms, whose sums may cancel, then one of the result
        atol = 20 * torch.finfo(frame_dtype).eps * wanted.abs().max().item()
        cut_off = INTERPRETED and dtype == torch.bfloat16  # instead of rounded
        rtol = torch.finfo(dtype).eps / (1 if cut_off else 2)
        torch.testing.assert_close(actual.double(), wanted, atol=atol, rtol=rtol)


@pytest.mark.parametrize(("entry", "D"), [("locations", 2), ("offsets", 32)])  # 8x8 and 8x4 cells
def test_queries_that_are_cells_are_taken_in_patches(D, entry):
    shapes = [(9, 10), (2, 3), (1, 1)]
    inputs = inputs_of(entry, shapes, Q=97, D=D)
    ours, reference = ENTRIES[entry]
    for actual, wanted in zip(run(ours, shapes, inputs), exact(reference, shapes, inputs)):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("entry", ENTRIES)
def test_images_heads_and_tiles_stay_apart(entry, monkeypatch):
    shapes = [(2, 3)]
    monkeypatch.setitem(triton.TILES, 16, (16, 4))
    inputs = inputs_of(entry, shapes, N=2, Q=18, M=2)
    ours, reference = ENTRIES[entry]
    expected = exact(reference, shapes, inputs)
    for wide in (False, True):  # 64-bit offsets, here not needed
        monkeypatch.setattr(triton, "needs_64_bits", lambda *_, wide=wide: wide)
        for actual, wanted in zip(run(ours, shapes, inputs), expected):
            torch.testing.assert_close(actual, wanted)


def test_gradients_agree_with_finite_differences():
    shapes = [(2, 2)]
    value, centers, scale, offsets, logits = (
        x.requires_grad_() for x in inputs_of("offsets", shapes, Q=2, D=2, P=2)
    )
    fast = {"fast_mode": True}  # one direction: every evaluation takes its time
    inputs = value, offsets, logits
    assert torch.autograd.gradcheck(lambda v, *x: ms_deform_attn(v, shapes, *x), inputs, **fast)
    inputs = value, centers, scale, offsets, logits
    assert torch.autograd.gradcheck(
        lambda v, *x: ms_deform_attn_from_offsets(v, shapes, *x), inputs, **fast
    )


@pytest.mark.parametrize(
    ("entry", "needed"),
    [
        ("locations", (True, False, False)),
        ("locations", (False, True, False)),
        ("offsets", (False, False, False, True, True)),
        ("offsets", (False, True, False, False, False)),
    ],
)
def test_only_the_gradients_asked_for(entry, needed):
    shapes = [(2, 2)]
    inputs = inputs_of(entry, shapes, P=2)
    ours, reference = ENTRIES[entry]
    expected = exact(reference, shapes, inputs)[1:]
    for need, actual, wanted in zip(needed, run(ours, shapes, inputs, needed)[1:], expected):
        if need:
            torch.testing.assert_close(actual, wanted)
        else:
            assert actual is None


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("empty", [{"Q": 0}, {"N": 0}, {"P": 0}])
def test_nothing_to_sample(empty, entry):
    shapes = [(2, 2)]
    inputs = inputs_of(entry, shapes, **empty)
    for result in run(ENTRIES[entry][0], shapes, inputs):
        assert torch.equal(result, torch.zeros_like(result))


def test_strange_locations_stay_in_their_queries():
    shapes = [(2, 3)]
    value, locations, weights = random_samples(shapes, Q=5)
    expected = run(ms_deform_attn, shapes, (value, locations, weights))
    strange = torch.tensor([torch.nan, torch.inf, 1e30, -1e30], device=DEVICE)
    locations[0, :4, 0, 0, 0, 1] = strange
    output, grad_value, grad_locations, grad_weights = run(
        ms_deform_attn, shapes, (value, locations, weights)
    )
    assert output[0, 0].isnan().all()  # as in the reference
    assert torch.equal(output[0, 2:4], torch.zeros_like(output[0, 2:4]))
    for actual, wanted in zip((output, grad_locations, grad_weights), expected[:1] + expected[2:]):
        torch.testing.assert_close(actual[0, 4], wanted[0, 4])
    assert grad_value.isfinite().all()


def test_strided_inputs_and_gradients():
    shapes = [(2, 3)]
    inputs = random_samples(shapes, M=2)
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    ones = torch.ones(1, device=DEVICE).expand(1, 5, 8)
    for actual, wanted in zip(
        run(ms_deform_attn, shapes, strided, None, ones),
        run(ms_deform_attn_reference, shapes, inputs, None, ones),
    ):
        torch.testing.assert_close(actual, wanted)


def test_a_layer_computes_what_it_does_on_the_cpu(monkeypatch):
    torch.manual_seed(0)
    shapes = [(3, 2), (1, 1)]
    layer = DeformableAttention(embed_dim=32, num_heads=2, num_levels=2, num_points=2).to(DEVICE)
    query, memory = torch.randn(2, 2, 7, 32, device=DEVICE, requires_grad=True)
    centers = torch.rand(2, 7, 2, 2, device=DEVICE, requires_grad=True)
    cell = torch.tensor([[[[1 / 2, 1 / 3], [1.0, 1.0]]]], device=DEVICE)
    padding = torch.zeros(2, 7, dtype=torch.bool, device=DEVICE)
    padding[1, 4:] = True

    results = []
    for name in ("triton", "reference"):
        monkeypatch.setenv(choice.VARIABLE, name)
        output = layer(query, centers, cell, memory, padding, shapes)
        leaves = (query, memory, centers, *layer.parameters())
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_operator_keeps_pytorch_s_rules():
    value, *others = inputs_of("offsets", [(2, 2)], Q=2)
    inputs = (value, [2, 2], *(x.requires_grad_() for x in others))
    checks = ("test_schema", "test_faketensor")
    library.opcheck(operator.sample_from_offsets, inputs, test_utils=checks)
