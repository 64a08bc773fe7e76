"""What the analysis reads off whole models."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from golden import (
    co_deformable_detr_config,
    co_dino_config,
    dense_head,
    keep_encoder_heads,
    single_scale_config,
)
from torch import nn

from co_detr.analysis.head_distances import distances_of_heads
from co_detr.analysis.head_maps import (
    OriginalScores,
    head_gradients,
    head_maps,
    head_names,
    prepare_heads,
)
from co_detr.analysis.instability import match_by_identity
from co_detr.analysis.passes import encode
from co_detr.analysis.query_positions import locate_queries
from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.paa import PAAHead
from co_detr.modeling.transformer.encoder import EncoderMemory
from co_detr.ops.soft_nms import SoftNMS


def images(*sizes):
    return [{"image": torch.rand(3, *size) * 255} for size in sizes]


def with_boxes(inputs, *boxes):
    for x, found in zip(inputs, boxes):
        found = torch.tensor(found).reshape(-1, 4)
        x["instances"] = Instances(
            x["image"].shape[-2:],
            gt_boxes=Boxes(found),
            gt_classes=torch.arange(len(found)),
        )
    return inputs


def conditional_config():
    return single_scale_config("conditional")


CONFIGS = [co_deformable_detr_config, co_dino_config, conditional_config]


@pytest.mark.parametrize("config", CONFIGS)
def test_maps_of_all_heads_of_two_sizes(config):
    torch.manual_seed(0)
    cfg = config()
    cfg.aux_heads.atss2 = dense_head(cfg, ATSSHead)
    cfg.aux_heads.silent = dense_head(cfg, PAAHead, detections_per_image=0)
    model = instantiate(cfg)
    prepare_heads(model)
    inputs = images((64, 96), (40, 56))
    found = head_maps(model, inputs)
    assert head_names(model) == ["DETR", "rcnn", "atss", "atss2", "silent"]
    stride = {co_deformable_detr_config: 8, co_dino_config: 4, conditional_config: 32}[config]
    for x, maps in zip(inputs, found):
        assert maps.shape[1:] == tuple(-(-side // stride) for side in x["image"].shape[1:])
        assert maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1
        assert maps[4].max() == 0
    assert not found[0][2].equal(found[0][3])


def test_gradient_of_a_head_that_reads_one_number_of_each_image():
    # Two images of 3 tokens with 2 channels; the head's best score is the sigmoid of the last
    # number. It has another detection, which is one more than count.
    tokens = torch.tensor([[[0.0, 0], [0, 0], [0, 0]], [[0.0, 0], [0, 0], [0, 2]]])
    memory = EncoderMemory(tokens, torch.zeros(2, 3).bool(), [(1, 3)], torch.tensor([[[3, 1]]] * 2))

    class Head(nn.Module):
        def inference(self, features, image_sizes):
            numbers = features[0][:, :, 0].flatten(1)
            return [SimpleNamespace(scores=image[[5, 0]].sigmoid()) for image in numbers]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.aux_heads = nn.ModuleDict({"a": Head()})
            self.postprocess = SimpleNamespace(max_detections=1)

        def pyramid(self, memory):
            return memory.maps()

    (found,) = head_gradients(Model(), memory, [(8, 24)] * 2, heads=["a"])
    expected = torch.zeros(2, 3, 2)
    expected[:, 2, 1] = torch.tensor([0.0, 2.0]).sigmoid()
    torch.testing.assert_close(found, expected)


def test_soft_nms_decides_what_is_kept_but_leaves_the_scores():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.4, 1e-3], requires_grad=True)
    kept, found = OriginalScores(SoftNMS())(boxes, scores, torch.zeros(4, dtype=torch.int64))
    assert kept.tolist() == [1, 2, 0]  # lowered to 0.05, and the last one to almost nothing
    assert found.tolist() == pytest.approx([0.9, 0.4, 0.5])
    found.sum().backward()
    assert scores.grad.tolist() == [1, 1, 1, 0]


def test_a_silent_head_is_at_a_finite_distance():
    torch.manual_seed(0)
    cfg = co_deformable_detr_config()
    cfg.aux_heads.silent = dense_head(cfg, ATSSHead, detections_per_image=0)
    cfg.aux_heads.mute = dense_head(cfg, ATSSHead, detections_per_image=0)
    found = distances_of_heads(instantiate(cfg), [images((64, 96), (40, 56)), images((32, 32))])
    assert found.shape == (3, 5, 5)
    assert found.isfinite().all()
    assert found.diagonal(dim1=1, dim2=2).abs().max() < 1e-12
    assert found[:, 3, 4].abs().max() < 1e-12  # both are the same everywhere
    assert found[0, 1, 3] > 0.01  # which others are not


def test_without_auxiliary_heads_there_is_nothing_to_compare():
    cfg = co_deformable_detr_config()
    cfg.aux_heads = {}
    with pytest.raises(ValueError, match=r"has one\) and auxiliary heads \(it has 0\)"):
        distances_of_heads(instantiate(cfg), [])


def test_without_a_decoder_there_is_neither_matching_nor_distance():
    model = nn.Module()
    model.decoder, model.aux_heads = None, nn.ModuleDict({"atss": nn.Identity()})
    with pytest.raises(ValueError, match="without a decoder"):
        match_by_identity(model, [])
    with pytest.raises(ValueError, match=r"has none\) and auxiliary heads \(it has 1\)"):
        distances_of_heads(model, [])


def test_without_a_decoder_there_are_no_queries():
    cfg = co_deformable_detr_config()
    keep_encoder_heads(cfg, "atss")
    batches = [with_boxes(images((64, 64)), [[0.0, 0, 32, 32]])]
    with pytest.raises(ValueError, match="no queries in a model without a decoder"):
        next(locate_queries(instantiate(cfg).eval(), batches))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_object_is_matched_once_whatever_its_size(config):
    torch.manual_seed(0)
    model = instantiate(config()).eval()
    one_pixel = [10.0, 20.0, 11.0, 21.0]
    inputs = with_boxes(
        images((64, 64), (64, 64), (48, 40)), [[0.0, 0, 64, 64], one_pixel], [], [one_pixel]
    )
    found = match_by_identity(model, inputs)
    assert [sorted(image[image >= 0].tolist()) for image in found] == [[0, 1], [], [2]]


def test_two_stage_queries_are_tokens_that_were_proposed():
    torch.manual_seed(0)
    model = instantiate(co_deformable_detr_config()).eval()
    inputs = with_boxes(images((64, 64)), [[0.0, 0, 32, 32], [20.0, 20, 60, 60]])
    before = match_by_identity(model, inputs)
    memory, _ = encode(model, inputs)
    assert before.shape == (1, 8 * 8 + 4 * 4 + 2 * 2 + 1)
    proposed = model.proposals(memory).index[0].tolist()
    assert set(before[0].nonzero_static(size=2).flatten().tolist()) <= set(proposed)
