"""Which batches a CPU gets with the channels last, and that they are encoded as before."""

import pytest
import torch
from detectron2.config import instantiate
from hugging_face import KINDS

from co_detr.modeling import base_detector


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return instantiate(KINDS["deformable"][1]()).eval()


@torch.no_grad()
def encode(detector, sizes):
    """The memory of images of some sizes, and whether the backbone got the channels last."""
    generator = torch.Generator().manual_seed(0)
    batch = [{"image": 255 * torch.rand(3, *size, generator=generator)} for size in sizes]
    seen = []
    hook = detector.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    memory, _ = detector.encode(batch)
    hook.remove()
    return memory.tokens, *seen


def test_the_pixels_of_the_padded_batch_decide(detector, monkeypatch):
    monkeypatch.setattr(base_detector, "CHANNELS_LAST_PIXELS", 2 * 64 * 96)
    assert not encode(detector, [(64, 96)])[1]
    assert encode(detector, [(64, 32), (32, 96)])[1]


def test_it_makes_no_difference(detector, monkeypatch):
    sizes = [(64, 96), (80, 50)]
    first, last_there = encode(detector, sizes)
    monkeypatch.setattr(base_detector, "CHANNELS_LAST_PIXELS", 1)
    last, last_here = encode(detector, sizes)
    assert (last_there, last_here) == (False, True)
    torch.testing.assert_close(last, first, atol=1e-4, rtol=1e-4)
