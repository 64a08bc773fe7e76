"""The deformable attention core: official numbers, hand-worked samples, and the awkward inputs."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from co_detr.ops.ms_deform_attn import cpu, ms_deform_attn, ms_deform_attn_reference

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(json.loads((DATA / "ms_deform_attn.json").read_text())["cases"])
IMPLEMENTATIONS = [ms_deform_attn_reference, ms_deform_attn]  # here the one for the CPU
INPUTS = ("value", "sampling_locations", "attention_weights")
SHAPES = [(4, 3), (1, 2), (2, 1), (1, 1)]

both = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    return load_file(DATA / "ms_deform_attn.safetensors")


def random_inputs(*, N=2, Q=5, M=2, D=3, P=2, shapes=SHAPES, dtype=torch.float64):
    """Value, locations inside, across the border and outside of the maps, weights of both signs."""
    generator = torch.Generator().manual_seed(7)
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(N, tokens, M, D, generator=generator, dtype=dtype)
    locations = torch.rand(N, Q, M, len(shapes), P, 2, generator=generator, dtype=dtype)
    weights = torch.randn(N, Q, M, len(shapes), P, generator=generator, dtype=dtype)
    return value, locations * 3 - 1, weights


def run(implementation, value, locations, weights, shapes=SHAPES):
    """Output and the gradients of sum(output * [1, 2, 3, ...])."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = implementation(inputs[0], shapes, inputs[1], inputs[2])
    factors = torch.arange(1, output.numel() + 1, dtype=output.dtype).view_as(output)
    return output.detach(), *torch.autograd.grad((output * factors).sum(), inputs)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_matches_official_operator(case, dtype, implementation, official):
    data = {
        name.removeprefix(f"{case}."): tensor
        for name, tensor in official.items()
        if name.startswith(f"{case}.")
    }
    inputs = [data[name].to(dtype, copy=True).requires_grad_() for name in INPUTS]
    shapes = [(h, w) for h, w in data["spatial_shapes"].tolist()]

    output = implementation(inputs[0], shapes, *inputs[1:])
    (output * data["grad_output"].to(dtype)).sum().backward()

    # In float32 a location times the size of its map loses some digits of the fraction.
    exact = dtype == torch.float64
    tolerance = {"atol": 1e-10, "rtol": 1e-10} if exact else {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(output.double(), data["output_f64"], **tolerance)
    for name, tensor in zip(INPUTS, inputs):
        if case == "pixel_centres" and name == "sampling_locations":
            continue  # a kink: the derivatives from the left and from the right differ
        torch.testing.assert_close(tensor.grad.double(), data[f"grad_{name}_f64"], **tolerance)


@both
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.25, 1.0),  # centre of the top left cell
        (0.75, 0.25, 2.0),  # the one to its right
        (0.25, 0.75, 4.0),  # the one below
        (0.50, 0.50, 3.75),  # mean of the four
        (0.50, 0.25, 1.5),  # mean of the upper two
        (0.00, 0.00, 0.25),  # top left corner of the map: three of four corners are outside
        (1.00, 0.75, 4.0),  # right border, lower row: half of the 8
        (-0.25, 0.25, 0.0),  # exactly one cell outside
        (0.25, 9.0, 0.0),  # far outside
    ],
)
def test_samples_worked_by_hand(x, y, expected, implementation):
    value = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1, 1)
    output = implementation(
        value, [(2, 2)], torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1)
    )
    assert output.item() == pytest.approx(expected)


@both
def test_levels_heads_and_points_add_up(implementation):
    # Two heads of one channel on maps of 1x2 and 1x1 cells; each sample hits the centre of a cell.
    value = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]).view(1, 3, 2, 1)
    left, right, only = (0.25, 0.5), (0.75, 0.5), (0.5, 0.5)
    locations = torch.tensor([[[left, right], [only, only]], [[right, right], [only, only]]])
    weights = torch.tensor([[[1.0, 3.0], [5.0, 0.0]], [[1.0, 1.0], [0.0, 0.5]]])
    output = implementation(value, [(1, 2), (1, 1)], locations[None, None], weights[None, None])
    head_0 = 1 * 1 + 3 * 2 + 5 * 4
    head_1 = 1 * 20 + 1 * 20 + 0.5 * 40
    assert output.tolist() == [[[head_0, head_1]]]


@both
def test_gradients_agree_with_finite_differences(implementation):
    inputs = [tensor.requires_grad_() for tensor in random_inputs(N=2, Q=3, D=2)]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: implementation(value, SHAPES, locations, weights), inputs
    )


def test_location_gradient_at_pixel_centres_is_that_of_grid_sample():
    # Untrained sampling offsets are whole cells, so that these kinks are met in the first step.
    # Sizes are powers of two, for the products with the size to be exact.
    shapes = [(4, 2), (1, 4)]
    value, _, weights = random_inputs(N=1, Q=8, P=3, shapes=shapes)
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(-2, 6, (1, 8, 2, 2, 3, 2), generator=generator)
    size = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)[:, None]
    locations = (cells + 0.5) / size
    expected = run(ms_deform_attn_reference, value, locations, weights, shapes)
    for ours, theirs in zip(run(ms_deform_attn, value, locations, weights, shapes), expected):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shapes", [[(1, 1)], [(2, 1), (1, 1)], [(2, 2), (1, 2)]])
@pytest.mark.parametrize("P", [1, 8])
def test_maps_with_fewer_cells_than_samples(shapes, P):
    inputs = random_inputs(N=1, P=P, shapes=shapes)
    expected = run(ms_deform_attn_reference, *inputs, shapes=shapes)
    for actual, wanted in zip(run(ms_deform_attn, *inputs, shapes=shapes), expected):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("chunk", [1, 17, 10**9])
def test_chunks_do_not_change_the_result(chunk, monkeypatch):
    inputs = random_inputs(N=3, Q=7)
    expected = run(ms_deform_attn_reference, *inputs)
    monkeypatch.setattr(cpu, "CHUNK", chunk)
    for ours, theirs in zip(run(ms_deform_attn, *inputs), expected):
        torch.testing.assert_close(ours, theirs)


@both
@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)))
def test_only_the_gradients_asked_for(needed, implementation):
    inputs = random_inputs()
    expected = run(ms_deform_attn_reference, *inputs)
    inputs = [tensor.requires_grad_(need) for tensor, need in zip(inputs, needed)]
    output = implementation(inputs[0], SHAPES, *inputs[1:])
    assert output.requires_grad == any(needed)
    if any(needed):
        factors = torch.arange(1, output.numel() + 1, dtype=output.dtype).view_as(output)
        (output * factors).sum().backward()
    for tensor, need, gradient in zip(inputs, needed, expected[1:]):
        if need:
            torch.testing.assert_close(tensor.grad, gradient)
        else:
            assert tensor.grad is None


@both
def test_strided_inputs_and_gradients(implementation):
    inputs = random_inputs()
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in inputs]
    assert not any(tensor.is_contiguous() for tensor in strided)
    for ours, theirs in zip(
        run(implementation, *strided), run(ms_deform_attn_reference, *inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)

    value = strided[0].requires_grad_()
    output = implementation(value, SHAPES, *strided[1:])
    (by_sum,) = torch.autograd.grad(output.sum(), value, retain_graph=True)  # an expanded scalar
    (by_ones,) = torch.autograd.grad(output, value, torch.ones_like(output))
    torch.testing.assert_close(by_sum, by_ones)


@pytest.mark.parametrize("empty", [{"Q": 0}, {"N": 0}, {"P": 0}])
def test_nothing_to_sample(empty):
    sizes = {"N": 2, "Q": 5, "M": 2, "D": 3, "P": 2} | empty
    inputs = random_inputs(**sizes)
    output, *gradients = run(ms_deform_attn, *inputs)
    assert output.shape == (sizes["N"], sizes["Q"], 6)
    assert output.abs().sum() == 0
    for tensor, gradient in zip(inputs, gradients):
        assert torch.equal(gradient, torch.zeros_like(tensor))


def test_low_precision_values_are_summed_in_float32():
    value, locations, weights = random_inputs(dtype=torch.float32)
    value = value.bfloat16()
    output, *gradients = run(ms_deform_attn, value, locations, weights)
    expected, *expected_gradients = run(ms_deform_attn_reference, value.float(), locations, weights)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.bfloat16())
    assert [gradient.dtype for gradient in gradients] == [
        torch.bfloat16,
        torch.float32,
        torch.float32,
    ]
    for ours, theirs in zip(gradients, expected_gradients):
        torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("shapes", [SHAPES, [(1, 1)]])
def test_autocast_does_not_lower_the_precision(shapes):
    inputs = random_inputs(dtype=torch.float32, shapes=shapes)
    expected = run(ms_deform_attn, *inputs, shapes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ours, theirs in zip(run(ms_deform_attn, *inputs, shapes), expected):
            assert torch.equal(ours, theirs)


def test_a_location_that_is_not_a_number_stays_in_its_bag():
    value, locations, weights = random_inputs(dtype=torch.float32)
    expected = ms_deform_attn(value, SHAPES, locations, weights)
    locations[1, 2, 0, 0, 0, 1] = torch.nan
    output = ms_deform_attn(value, SHAPES, locations, weights)
    touched = torch.zeros_like(output, dtype=torch.bool)
    touched[1, 2, :3] = True  # head 0
    assert torch.isnan(output[touched]).all()
    torch.testing.assert_close(output[~touched], expected[~touched])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"value": torch.zeros(2, 17, 6)}, r"value must be \(N, S, M, D\), got \(2, 17, 6\)"),
        ({"spatial_shapes": [(4, 3)]}, r"\[\(4, 3\)\] describe 12 tokens, but value has 17"),
        ({"attention_weights": torch.zeros(2, 5, 2, 3, 2)}, r"levels=4, got \(2, 5, 2, 3, 2\)"),
        ({"sampling_locations": torch.zeros(2, 5, 2, 4, 1, 2)}, r"\(2, 5, 2, 4, 2, 2\), got"),
    ],
)
def test_shapes_that_do_not_fit_are_named(argument, message):
    value, locations, weights = random_inputs()
    arguments = {
        "value": value,
        "spatial_shapes": SHAPES,
        "sampling_locations": locations,
        "attention_weights": weights,
    }
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(**(arguments | argument))
