"""Models without auxiliary heads against those of Hugging Face `transformers`, tiny and random.

Weights go from theirs to ours by the table that converts published checkpoints. Images are of two
sizes, so that one of them is padded.
"""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from hugging_face import KINDS, LAYERS
from torch import nn

from co_detr.checkpoint.rename import rename
from co_detr.checkpoint.transformers import convert_transformers, tidy, transformers_table
from co_detr.modeling.base_detector import padding_mask

CLOSE = dict(atol=1e-4, rtol=1e-4)


def _batch():
    """Two pictures of different sizes, the second padded in both directions."""
    generator = torch.Generator().manual_seed(1)
    boxes = [[[8.0, 8, 90, 60], [30, 4, 128, 100]], [[5, 20, 60, 70]]]
    batch = []
    for (height, width), objects in zip([(128, 160), (96, 100)], boxes):
        target = Instances((height, width))
        target.gt_boxes = Boxes(torch.tensor(objects))
        target.gt_classes = torch.arange(len(objects)) + 2
        image = torch.randint(0, 256, (3, height, width), generator=generator).float()
        batch.append({"image": image, "instances": target})
    return batch


def _their_layers(model, out, hidden):
    """Class logits and boxes of all layers of theirs.

    With auxiliary losses, their Conditional DETR hands the *normalized* output of a layer to the
    next, which neither the authors' code does, nor theirs without auxiliary losses; so that there,
    this puts their parts together.
    """
    if out.auxiliary_outputs is not None:
        layers = [*out.auxiliary_outputs, {"logits": out.logits, "pred_boxes": out.pred_boxes}]
        return [torch.stack([layer[key] for layer in layers]) for key in ("logits", "pred_boxes")]
    hidden = model.model.decoder.layernorm(hidden)
    points = model.model.decoder.ref_point_head(model.model.query_position_embeddings.weight)
    boxes = model.bbox_predictor(hidden) + nn.functional.pad(points, (0, 2))
    return model.class_labels_classifier(hidden), boxes.sigmoid()


def _their_losses(model, labels, logits, boxes):
    """Their losses by our names, weighted as ours."""
    config = type(model.config).from_dict(model.config.to_dict() | {"auxiliary_loss": True})
    _, losses, _ = model.loss_function(
        logits[-1], labels, logits.device, boxes[-1], config, logits, boxes
    )
    result = {}
    for kind, key, weight in (("class", "ce", 2.0), ("box", "bbox", 5.0), ("giou", "giou", 2.0)):
        for layer in range(LAYERS):
            suffix = f"_{layer}" if layer < LAYERS - 1 else ""
            result[f"matching/loss_{kind}_{layer}"] = weight * losses[f"loss_{key}{suffix}"]
    return result


def _run_theirs(model, images, sizes, batch):
    hidden = []
    for layer in model.model.decoder.layers:
        layer.register_forward_hook(
            lambda _m, _i, out: hidden.append(out[0] if isinstance(out, tuple) else out)
        )
    labels = [
        {
            "class_labels": x["instances"].gt_classes,
            "boxes": _normalized(x["instances"].gt_boxes.tensor, size),
        }
        for x, size in zip(batch, sizes)
    ]
    out = model(
        images,
        pixel_mask=(~padding_mask(images, sizes)).long(),
        labels=labels,
        output_hidden_states=True,
    )
    hidden = torch.stack(hidden)
    logits, boxes = _their_layers(model, out, hidden)
    torch.testing.assert_close(logits[-1], out.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(boxes[-1], out.pred_boxes, atol=1e-5, rtol=0)
    losses = _their_losses(model, labels, logits, boxes)
    sum(losses.values()).backward()
    return dict(
        memory=out.encoder_last_hidden_state,
        hidden=hidden,
        logits=logits,
        boxes=boxes,
        losses=losses,
        gradients=_gradients(model),
    )


def _gradients(model):
    """By parameter, but for the backbone, of which the two freeze different parts."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters(remove_duplicate=False)
        if "backbone" not in name
    }


def _normalized(boxes, size):
    height, width = size
    x0, y0, x1, y1 = (boxes / torch.tensor([width, height, width, height])).unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)


def _run_ours(model, batch):
    seen = {"hidden": []}
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda _m, _i, out: seen["hidden"].append(out))
    model.encoder.register_forward_hook(lambda _m, _i, out: seen.update(memory=out.tokens))
    model.decoder.register_forward_hook(lambda _m, _i, out: seen.update(out=out["matching"]))
    losses = {k: v for k, v in model.train()(batch).items() if k.startswith("matching/")}
    sum(losses.values()).backward()
    return dict(
        memory=seen["memory"],
        hidden=torch.stack(seen["hidden"]),
        logits=seen["out"].logits,
        boxes=seen["out"].boxes,
        losses=losses,
        gradients=_gradients(model),
    )


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    """What both models make of the same pictures, with the gradients of theirs by our names."""
    make_theirs, config = KINDS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs, ours = make_theirs(), instantiate(config())
    ours.load_state_dict(convert_transformers(theirs.state_dict(), ours))
    batch = _batch()
    images, sizes = ours.preprocess(batch)
    expected, actual = _run_theirs(theirs, images, sizes, batch), _run_ours(ours, batch)
    expected["gradients"], _ = rename(
        tidy(expected["gradients"], ours), transformers_table(ours), actual["gradients"]
    )
    return expected, actual


@pytest.mark.parametrize("what", ["memory", "hidden", "logits", "boxes"])
def test_what_the_layers_say(both, what):
    expected, actual = both
    assert expected[what].std() > 0.05  # or anything would be close to it
    torch.testing.assert_close(actual[what], expected[what], **CLOSE)


def test_losses_of_every_layer(both):
    expected, actual = both
    torch.testing.assert_close(actual["losses"], expected["losses"], **CLOSE)


def test_gradients_of_every_weight(both):
    expected, actual = both
    assert expected["gradients"].keys() == actual["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        scale = gradient.abs().max().clamp(min=1.0)
        torch.testing.assert_close(
            actual["gradients"][name] / scale, gradient / scale, atol=1e-4, rtol=0, msg=name
        )
