"""The Triton kernels: what their launch computes, and `triton_checks.py` as a job of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from co_detr.ops.ms_deform_attn import triton  # noqa: E402  it needs the package of that name

HERE = Path(__file__).parent


@pytest.mark.timeout(1800)  # in the interpreter: half a minute of an idle core
@pytest.mark.parametrize(
    "interpreted",
    [
        True,
        pytest.param(
            False,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled for CUDA"),
        ),
    ],
)
def test_kernels(interpreted):
    # Kernels are made for the interpreter, or not, when they are imported.
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpreted))}
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=900", HERE / "triton_checks.py"]
    job = subprocess.run(command, env=environment, cwd=HERE.parent.parent, capture_output=True)
    assert job.returncode == 0, job.stdout.decode()


def test_offsets_of_more_than_2_31_elements_take_64_bits():
    assert not triton.needs_64_bits(0, 2**31)  # the last offset is 2**31 - 1
    assert triton.needs_64_bits(10, 2**31 + 1)
    # locations of an encoder: 12 images of 800x1333, five scales, 8 heads, 4 points
    queries = sum(h * w for h, w in [(200, 334), (100, 167), (50, 84), (25, 42), (13, 21)])
    assert not triton.needs_64_bits(75 * queries * 8 * 5 * 4 * 2 * 75 // 100)
    assert triton.needs_64_bits(76 * queries * 8 * 5 * 4 * 2)


def test_cells_in_patches():
    # 32 cells are 4 rows of 8; 5x9 cells take 2x2 patches, 4x8 cells one, 1x17 cells three
    shapes = ((5, 9), (4, 8), (1, 17))
    assert triton.num_patches(shapes, 32) == 8
    assert triton.level_table(shapes, 32) == ((5, 9, 0, 0), (4, 8, 45, 4), (1, 17, 77, 5))
    # 64 cells are 8 rows of 8
    assert triton.num_patches(shapes, 64) == 2 + 1 + 3
