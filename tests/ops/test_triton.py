"""The Triton kernels: what their launch computes, and `triton_checks.py` as a job of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

compiler = pytest.importorskip("triton.compiler")

from triton.backends.compiler import GPUTarget  # noqa: E402

from co_detr.ops.ms_deform_attn import triton, triton_kernels  # noqa: E402

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


LAUNCHES = {
    # value and gradients of its dtype, offsets and logits, whether 64-bit offsets
    "offsets": (torch.bfloat16, torch.bfloat16, True, False),
    "locations": (torch.float16, torch.float32, False, True),
}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled then")
@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_kernels_compile_without_a_gpu(direction, launch, monkeypatch, tmp_path):
    """What the interpreter takes may have types that the compiler refuses."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_for_gpu(direction, *LAUNCHES[launch])
    # All channels of a cell, 32 of 16 bits, go in four loads of 16 bytes, and nothing of a sample
    # passes through shared memory on its way to the lanes of its channels.
    assert "ld.global.v4" in compiled.asm["ptx"]
    if direction == "forward":
        assert "bar.sync" not in compiled.asm["ptx"]


def compile_for_gpu(direction, dtype, samples_dtype, from_offsets, wide):
    """Compile a kernel as `triton.py` launches it for encoders with 8 heads of 32 channels."""
    shapes = [(8, 8), (1, 1)]
    value = torch.empty(1, 65, 8, 32, dtype=dtype)
    pairs = torch.empty(1, 65, 8, 2, 4, 2, dtype=samples_dtype)
    scores = torch.empty(1, 65, 8, 2, 4, dtype=samples_dtype)
    launch = triton._Launch(value, shapes, pairs, scores, from_offsets)
    constants = launch.constants | {"WIDE": wide}
    kernel = getattr(triton_kernels, f"{direction}_kernel")
    if direction == "backward":
        constants |= {"OF_LOCATIONS": False, "NEEDS_VALUE": True, "NEEDS_SAMPLES": True}
    names = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
    of_value, of_samples = names[dtype], names[samples_dtype]
    types = {
        **dict.fromkeys(("output", "value", "grad_output"), of_value),
        **dict.fromkeys(("pairs", "scores", "grad_pairs", "grad_scores"), of_samples),
        **dict.fromkeys(("centers", "scale", "grad_value"), "*fp32"),
        **dict.fromkeys(("S", "Q"), "i32"),
        "levels": "*i32",
        **dict.fromkeys(constants, "constexpr"),
    }
    signature = {name: types[name] for name in kernel.arg_names}
    aligned = {  # as PyTorch's allocator does it
        (index,): [["tt.divisibility", 16]]
        for index, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    places = {(kernel.arg_names.index(name),): x for name, x in constants.items()}
    source = compiler.ASTSource(kernel, signature, places, aligned)
    options = {"num_warps": launch.num_warps}
    return compiler.compile(source, target=GPUTarget("cuda", 80, 32), options=options)


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
