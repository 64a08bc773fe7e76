"""Recomputing layers of transformers and blocks of backbones: same losses, less kept."""

import copy

import pytest
import torch
from detectors import MODELS, build, make_input, train_step, usual_batch
from torch import nn

from co_detr.engine.speed import recompute_blocks
from co_detr.modeling.backbone import EvaViT, SwinTransformer
from co_detr.modeling.recompute import num_recomputed


def count_kept(run):
    """What a call returns, and how many numbers its forward passes keep for the backward pass."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = run()
    return result, kept


@pytest.mark.parametrize(
    "name, part",
    [
        ("two-heads", "decoder"),
        ("conditional", "decoder"),
        ("conditional", "encoder"),
        ("dab", "decoder"),
        ("dab", "encoder"),
    ],
)
def test_losses_and_gradients_do_not_change(name, part):
    seen = []
    for count in (0, 1, 2):
        cfg = MODELS[name]()
        cfg[part].num_checkpointed = count
        model = build(cfg)
        losses, kept = count_kept(lambda model=model: train_step(model, usual_batch()))
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        seen.append((losses, gradients, kept))
    (losses, gradients, kept), *others = seen
    assert any(n.startswith(f"{part}.layers.1.") and g.any() for n, g in gradients.items())
    for other_losses, other_gradients, less in others:
        torch.testing.assert_close(dict(other_losses), dict(losses))
        torch.testing.assert_close(other_gradients, gradients)
        assert less < kept
        kept = less


def test_evaluation_keeps_its_graph():
    """Who wants gradients in evaluation mode is not charged with a second pass."""
    model = build(MODELS["two-heads"]()).eval()
    _, kept = count_kept(lambda: model(usual_batch()))
    model.decoder.num_checkpointed = 2
    assert count_kept(lambda: model(usual_batch()))[1] == kept


def swin(count) -> nn.Module:
    options = {"embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "window_size": 4}
    return SwinTransformer(**options, out_features=["res4"], activation_checkpointing=count)


def eva(count) -> nn.Module:
    options = {"embed_dim": 16, "depth": 4, "num_heads": 2, "window_size": 2, "pretrained_grid": 4}
    return EvaViT(**options, global_blocks=(3,), activation_checkpointing=count)


@pytest.mark.parametrize("make", [swin, eva])
def test_each_block_more_keeps_less(make):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    counts = [False, 0, 1, 2, 3, 4, True]
    kept = [count_kept(lambda c=c: make(c)(images))[1] for c in counts]
    assert kept[0] == kept[1] and kept[5] == kept[6]
    assert kept[1:6] == sorted(set(kept), reverse=True)


def test_blocks_of_a_resnet_keep_less_and_compute_the_same():
    seen = []
    for count in (0, 4, 13):  # res3, res4 and res5 have 4 + 6 + 3
        model = build(MODELS["atss"]())
        recompute_blocks(model, count)
        losses, kept = count_kept(lambda model=model: train_step(model, usual_batch()))
        seen.append((dict(losses), {n: p.grad for n, p in model.named_parameters()}, kept))
    for losses, gradients, kept in seen[1:]:
        torch.testing.assert_close(losses, seen[0][0])
        torch.testing.assert_close(gradients, seen[0][1])
        assert kept < seen[0][2]
    assert gradients["backbone.res3.0.conv1.weight"].any() and seen[2][2] < seen[1][2]


def test_a_copy_of_a_recomputing_backbone_has_its_own_weights():
    model = build(MODELS["no-heads"]())
    recompute_blocks(model, 13)
    copied = copy.deepcopy(model).train()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
    maps = copied.backbone(make_input(64, 64)["image"][None].float())
    assert all(x.any() for x in maps.values())


def test_a_backbone_with_fewer_blocks_is_refused():
    with pytest.raises(ValueError, match="recompute_blocks=14: the backbone has 13 trained"):
        recompute_blocks(build(MODELS["no-heads"]()), 14)


@pytest.mark.parametrize("count", [-1, 5])
def test_more_blocks_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=rf"activation_checkpointing={count} of 4 blocks"):
        num_recomputed(count, 4)
