"""Batches that training has to take: no boxes, tiny ones, more than there are queries."""

import pytest
import torch
from detectors import (
    assert_healthy,
    build,
    co_dino_config,
    conditional,
    dab,
    full,
    make_input,
    no_heads,
    train_step,
)

pytestmark = pytest.mark.usefixtures("fixed_seed")


BATCHES = {
    "no-boxes": [(64, 96, []), (64, 96, [])],
    "one-empty-image": [(64, 96, [[8, 8, 40, 50], [30, 4, 90, 60]]), (64, 96, [])],
    "one-box": [(64, 96, [[8, 8, 40, 50]])],
    "one-pixel": [(64, 96, [[50, 30, 51, 31]]), (64, 96, [[0, 0, 1, 1]])],
    "whole-image": [(64, 96, [[0, 0, 96, 64]])],
    "more-boxes-than-queries": [(64, 96, [[2 * i, i, 2 * i + 20, i + 20] for i in range(38)])],
    "two-sizes": [(64, 96, [[8, 8, 40, 50]]), (40, 130, [[5, 5, 100, 30]])],
    "tiny-image": [(9, 7, [[1, 1, 6, 6]])],
    "twins": [(64, 96, [[8, 8, 40, 50]] * 3)],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("padding", ["negatives", "mask"])
def test_awkward_batches_train(batch, padding):
    cfg = full()
    cfg.query_sources.customized.padding = padding
    model = build(cfg)
    inputs = [make_input(*sample, seed=i) for i, sample in enumerate(BATCHES[batch])]
    losses = train_step(model, inputs)
    assert_healthy(model, losses)
    if batch == "no-boxes":
        for name in losses:
            if name.split("_")[-1] != "centerness" and ("box" in name or "giou" in name):
                assert losses[name] == 0, name


@pytest.mark.parametrize("batch", BATCHES)
def test_awkward_batches_train_co_dino_of_one_class(batch):
    cfg = co_dino_config()
    cfg.num_classes = 1
    model = build(cfg)
    inputs = [make_input(*sample, seed=i) for i, sample in enumerate(BATCHES[batch])]
    for x in inputs:
        x["instances"].gt_classes.zero_()
    assert_healthy(model, train_step(model, inputs))
    with torch.no_grad():
        for found, x in zip(model.eval()(inputs), inputs):
            assert found["instances"].image_size == x["image"].shape[-2:]
            assert (found["instances"].pred_classes == 0).all()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("make", [conditional, dab])
def test_awkward_batches_train_single_scale_models(batch, make):
    model = build(make())
    inputs = [make_input(*sample, seed=i) for i, sample in enumerate(BATCHES[batch])]
    assert_healthy(model, train_step(model, inputs))


def test_losses_do_not_know_whether_an_empty_image_came_along():
    """Background adds to the class losses only; boxes are learned as from the image alone."""
    model = build(no_heads())
    image = make_input(64, 96, [[8, 8, 40, 50], [30, 4, 90, 60]], seed=1)
    alone = train_step(model, [image])
    together = train_step(model, [image, make_input(64, 96, [], seed=2)])
    for name in alone:
        if "class" in name:
            assert together[name] > alone[name]
        else:
            torch.testing.assert_close(together[name], alone[name], atol=1e-5, rtol=1e-5)
