"""Models in half precision find what they find in float32; places are computed in float32."""

import pytest
import torch
from detectron2.config import instantiate
from test_families import FAMILIES, shrunken

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
