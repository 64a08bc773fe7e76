"""Parity of the deformable attention core with the official operator, on values and gradients."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from co_detr.ops.ms_deform_attn import (
    ms_deform_attn,
    ms_deform_attn_cpu,
    ms_deform_attn_reference,
)

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(json.loads((DATA / "ms_deform_attn.json").read_text())["cases"])
IMPLEMENTATIONS = [ms_deform_attn_reference, ms_deform_attn_cpu, ms_deform_attn]
INPUTS = ("value", "sampling_locations", "attention_weights")


@pytest.fixture(scope="module")
def reference_numbers() -> dict[str, torch.Tensor]:
    return load_file(DATA / "ms_deform_attn.safetensors")


def random_inputs(shapes, *, N=2, Q=5, M=2, D=3, P=2, dtype=torch.float64, seed=0):
    """Inputs whose samples lie inside, across the border and outside of the maps."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(N, tokens, M, D, generator=generator, dtype=dtype)
    locations = torch.rand(N, Q, M, len(shapes), P, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weights = torch.randn(N, Q, M, len(shapes), P, generator=generator, dtype=dtype)
    return value, locations, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_matches_official_operator(case, implementation, dtype, reference_numbers):
    data = {
        name.removeprefix(f"{case}."): tensor
        for name, tensor in reference_numbers.items()
        if name.startswith(f"{case}.")
    }
    value, locations, weights = (
        data[name].to(dtype, copy=True).requires_grad_() for name in INPUTS
    )
    shapes = [(h, w) for h, w in data["spatial_shapes"].tolist()]

    output = implementation(value, shapes, locations, weights)
    (output * data["grad_output"].to(dtype)).sum().backward()

    # Locations are scaled by the map size before they are split into cell and fraction, so float32
    # loses a few digits of the fraction; the location gradient is scaled by the size once more.
    tolerance = (
        {"atol": 1e-10, "rtol": 1e-10} if dtype == torch.float64 else {"atol": 2e-5, "rtol": 1e-4}
    )
    torch.testing.assert_close(output.double(), data["output_f64"], **tolerance)
    for name, tensor in zip(INPUTS, (value, locations, weights)):
        if case == "pixel_centres" and name == "sampling_locations":
            continue  # a kink of the interpolation: left and right derivative differ
        torch.testing.assert_close(tensor.grad.double(), data[f"grad_{name}_f64"], **tolerance)
