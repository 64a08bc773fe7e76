"""Anchors that are kept from batch to batch: never those of other maps or images."""

import copy

import pytest
import torch

from co_detr.modeling.aux_heads.anchors import PyramidAnchors


def maps(*shapes):
    return [torch.rand(2, 8, *shape) for shape in shapes]


def make():
    return PyramidAnchors(strides=(8, 16), scale=4.0, scales_per_octave=2, aspect_ratios=(0.5, 1.0))


LARGE, SMALL = maps((4, 6), (2, 3)), maps((2, 3), (1, 2))


@pytest.fixture(params=["as made", "copied"])
def used(request):
    """Anchors that have seen maps and images before."""
    anchors = make()
    anchors(LARGE), anchors.valid(LARGE, [(32, 48), (20, 20)])
    return anchors if request.param == "as made" else copy.deepcopy(anchors)


@pytest.mark.parametrize("features", [LARGE, SMALL, [x.double() for x in SMALL]])
def test_kept_anchors_are_those_of_the_maps(used, features):
    for _ in range(2):
        for kept, fresh in zip(used(features), make()(features), strict=True):
            assert torch.equal(kept, fresh)


@pytest.mark.parametrize("sizes", [[(32, 48), (20, 20)], [(20, 20), (32, 48)], [(9, 48)] * 2])
def test_what_is_kept_as_valid_is_that_of_the_images(used, sizes):
    for _ in range(2):
        assert torch.equal(used.valid(LARGE, sizes), make().valid(LARGE, sizes))


def test_what_inference_has_kept_can_be_trained_on():
    anchors, factor = make(), torch.ones((), requires_grad=True)
    with torch.inference_mode():
        anchors(LARGE)
    (torch.cat(anchors(LARGE)) * factor).sum().backward()
    assert factor.grad.isfinite()
