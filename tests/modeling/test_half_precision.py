"""Models in half precision find what they find in float32; places are computed in float32."""

import pytest
import torch
from detectors import MODELS, build, make_input
from detectron2.config import instantiate
from test_families import FAMILIES, shrunken

from co_detr.modeling.aux_heads import GFLHead
from co_detr.modeling.aux_heads.paa import vote
from co_detr.modeling.focal import background_and_own
from co_detr.modeling.transformer import attention


def _build(family):
    """A model of a family whose every token becomes a query, so that no rank can change."""
    cfg = shrunken(FAMILIES[family])
    cfg.model.proposals.num_proposals = cfg.model.query_sources.matching.num_queries = 1000
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 or not parameter.any():  # offsets and boxes start at zero
            parameter.data += 0.02 * torch.randn_like(parameter)
    content = model.query_sources["matching"].content
    if content is not None:  # queries of all ranks alike
        content.weight.data[:] = content.weight.data[:1].clone()
    return model


def _predictions(model, images):
    """Logits and boxes of the last layer, (N, S, ...), in the order of the tokens."""
    seen = {}
    hooks = [
        model.proposals.register_forward_hook(lambda *args: seen.update(proposals=args[-1])),
        model.decoder.register_forward_hook(lambda *args: seen.update(decoder=args[-1])),
    ]
    with torch.no_grad():
        detections = model([{"image": image} for image in images])
    for hook in hooks:
        hook.remove()
    order = seen["proposals"].index.argsort(dim=1)[..., None]
    predicted = seen["decoder"]["matching"]
    for x in detections:
        found = x["instances"]
        assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
    return [
        part[-1].float().gather(1, order.expand(-1, -1, part.shape[-1]))
        for part in (predicted.logits, predicted.boxes)
    ]


def _boxes_of_distributions():
    head = GFLHead(in_channels=32, num_classes=3, strides=(8, 128))
    torch.manual_seed(0)
    sides = torch.tensor([64.0, 1024.0])[:, None] * torch.tensor([-0.5, -0.5, 0.5, 0.5])
    return head.decode(torch.randn(1, 2, 68), sides)


def _voted_boxes():
    boxes = torch.tensor([[1001.3, 703.7, 1203.2, 907.1], [1003.3, 701.7, 1205.2, 905.1]])
    zeros = torch.zeros(2, dtype=torch.int64)
    return vote(boxes, zeros, boxes, torch.tensor([0.9, 0.8]), zeros)


def _background_loss():
    torch.manual_seed(0)
    logits = torch.randn(20, 50) - 2
    scored = torch.arange(50) % 3 == 0
    return background_and_own(logits, torch.zeros(20, dtype=torch.int64), 2.0, scored).background


@pytest.mark.parametrize("compute", [_boxes_of_distributions, _voted_boxes, _background_loss])
def test_boxes_and_losses_stay_in_float32_under_autocast(compute):
    expected = compute()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compute(), expected)


@pytest.mark.parametrize("name", ["two-heads", "conditional", "dab"])
def test_models_train_in_double_precision(name):
    losses = []
    for dtype in (torch.float32, torch.float64):
        model = build(MODELS[name]()).to(dtype)
        torch.manual_seed(1)
        terms = model([make_input(64, 80, [[5, 5, 40, 40], [10, 20, 30, 60]])])
        losses.append(sum(terms.values()))
        losses[-1].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-3)


@pytest.mark.parametrize("family", ["deformable", "dino-swin", "vit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_predictions_are_those_of_float32(family, dtype, monkeypatch):
    model = _build(family)
    images = [torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8), 255 * torch.rand(3, 50, 64)]
    logits, boxes = _predictions(model, images)

    seen = set()
    sample = attention.ms_deform_attn_from_offsets

    def note(value, shapes, centers, scale, offsets, logits):
        seen.add((value.dtype, centers.dtype, scale.dtype))
        return sample(value, shapes, centers, scale, offsets, logits)

    monkeypatch.setattr(attention, "ms_deform_attn_from_offsets", note)
    low_logits, low_boxes = _predictions(model.to(dtype), images)
    assert seen == {(dtype, torch.float32, torch.float32)}
    # Logits are about -4.6, of which a single rounding may cost 2 eps; a coordinate of 1 that is
    # rounded once would be off by eps / 2.
    eps = torch.finfo(dtype).eps
    assert (low_logits - logits).abs().max() < 10 * eps < logits.std()
    assert (low_boxes - boxes).abs().max() < eps / 4
