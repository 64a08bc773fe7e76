"""Training in several processes, in reduced precision, and without waiting for the device."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectors import (
    MODELS,
    assert_healthy,
    build,
    conditional,
    dab,
    make_input,
    train_step,
    usual_batch,
)
from detectron2.utils import comm
from golden import co_deformable_detr_config, co_dino_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.usefixtures("fixed_seed")


# ---------------------------------------------------------------------------------------------
# two processes


def one_rank(rank, address, make, results):
    """Rank 0 has an image with boxes, rank 1 one without."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    model = nn.parallel.DistributedDataParallel(build(make()), find_unused_parameters=False)
    torch.manual_seed(rank)
    losses = model.train()([two_images()[rank]])
    sum(losses.values()).backward()
    gradients = {n: p.grad.numpy() for n, p in model.module.named_parameters() if p.requires_grad}
    results.put((rank, list(losses), gradients))
    dist.barrier()
    dist.destroy_process_group()


def two_images():
    boxes = [[8, 8, 40, 50], [30, 4, 90, 60]]
    return [make_input(64, 96, boxes, seed=1), make_input(64, 96, [], seed=2)]


@pytest.mark.parametrize("name", ["two-heads", "no-heads"])
def test_a_rank_without_boxes_trains_along(name, tmp_path):
    make = MODELS[name]
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    address = f"file://{tmp_path / 'rendezvous'}"
    ranks = [
        context.Process(target=one_rank, args=(rank, address, make, results)) for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    (_, names, gradients), (_, other_names, other_gradients) = sorted(
        (results.get() for _ in ranks), key=lambda result: result[0]
    )
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert names == other_names
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[key], msg=key)
    if name == "no-heads":  # nothing is random then: the same as one process with both images
        model = build(make())
        train_step(model, two_images())
        for key, gradient in gradients.items():
            expected = model.get_parameter(key).grad.numpy()
            torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3, msg=key)


# ---------------------------------------------------------------------------------------------
# reduced precision, and waiting for the device


@pytest.mark.parametrize("make", [co_deformable_detr_config, co_dino_config, conditional, dab])
def test_bfloat16_trains_alike(make):
    model, batch = build(make()), usual_batch()
    expected = sum(train_step(model, batch).values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        losses = model(batch)
    model.zero_grad()
    sum(losses.values()).backward()
    assert_healthy(model, losses)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    # other proposals may be chosen, but as good ones
    torch.testing.assert_close(sum(losses.values()), expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("make", [co_deformable_detr_config, co_dino_config, conditional, dab])
def test_the_decoder_copies_nothing_to_the_device(make, monkeypatch):
    """A tensor made of Python numbers is a copy, for which the host waits, six times per step."""
    model = build(make()).train()
    tensors_made = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "lift_fresh" in str(func):
                tensors_made.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    original = model.decoder.forward

    def noted(groups, memory):
        with Noted():
            return original(groups, memory)

    monkeypatch.setattr(model.decoder, "forward", noted)
    model(usual_batch())
    # the sizes of the levels, once
    assert len(tensors_made) <= 1
