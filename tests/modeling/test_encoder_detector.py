"""Detection heads alone on the encoder, against the same heads within Co-DETR."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from golden import co_deformable_detr_config, keep_encoder_heads

HEADS = ["atss", "rcnn"]


@pytest.fixture(scope="module")
def co_detr():
    """Its heads weigh 12, as two heads of the encoder alone weigh 1."""
    torch.manual_seed(0)
    return instantiate(co_deformable_detr_config())


def build(*heads, **options):
    cfg = co_deformable_detr_config()
    keep_encoder_heads(cfg, *heads)
    cfg.update(options)
    return instantiate(cfg)


def with_weights_of(co_detr, *heads, **options):
    model = build(*heads, **options)
    result = model.load_state_dict(co_detr.state_dict(), strict=False)
    assert result.missing_keys == []
    return model


def batch(*boxes_of_images):
    """Images of 64x96 and 80x70 pixels by turns."""
    torch.manual_seed(1)
    inputs = []
    for i, boxes in enumerate(boxes_of_images):
        height, width = [(64, 96), (80, 70)][i % 2]
        truth = Instances((height, width))
        truth.gt_boxes = Boxes(torch.tensor(boxes).float().reshape(-1, 4))
        truth.gt_classes = torch.arange(len(boxes)) % 7
        inputs.append({"image": 255 * torch.rand(3, height, width), "instances": truth})
    return inputs


USUAL = [[8, 8, 40, 50], [30, 4, 90, 60]], [[5, 20, 60, 70]]


def losses_of(model, inputs):
    torch.manual_seed(2)
    return model.train()(inputs)


@pytest.mark.parametrize("heads", [["atss"], ["rcnn"], ["rcnn", "atss"]])
def test_losses_are_those_within_co_detr_without_the_layers_and_lambda_2(co_detr, heads):
    model = with_weights_of(co_detr, *heads, eval_branch=heads[0])
    expected = losses_of(co_detr, batch(*USUAL))
    losses = losses_of(model, batch(*USUAL))
    assert set(losses) == {name for name in expected if name.split("/")[0] in heads}
    for name, loss in losses.items():
        torch.testing.assert_close(12 * loss, expected[name], msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_detections_are_those_of_the_branch_of_co_detr(co_detr, head):
    inputs = [x | {"height": 128, "width": 192} for x in batch(*USUAL)]
    co_detr.eval().eval_branch = head
    models = co_detr, with_weights_of(co_detr, head).eval()
    with torch.no_grad():
        expected, found = ([r["instances"] for r in model(inputs)] for model in models)
    for one, other in zip(found, expected):
        assert len(one) == 20 and one.image_size == (128, 192)
        assert torch.equal(one.pred_classes, other.pred_classes)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
        torch.testing.assert_close(one.scores, other.scores)


def test_of_several_heads_one_detects(co_detr):
    inputs = batch(*USUAL)
    one, both = (
        with_weights_of(co_detr, *heads, eval_branch="rcnn").eval()
        for heads in (["rcnn"], ["atss", "rcnn"])
    )
    with torch.no_grad():
        for found, other in zip(one(inputs), both(inputs)):
            assert torch.equal(found["instances"].scores, other["instances"].scores)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "boxes", [([], []), ([[8, 8, 40, 50]], []), ([[50, 30, 51, 31]],), ([[0, 0, 96, 64]] * 3,)]
)
def test_awkward_batches_train_every_parameter(head, boxes):
    model = build(head)
    sum(losses_of(model, batch(*boxes)).values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "heads, options, message",
    [
        ([], {}, "aux_heads detect: pass one"),
        (["atss", "rcnn"], {}, r"which of \['rcnn', 'atss'\] detects\? Set eval_branch"),
        (["atss"], {"eval_branch": "matching"}, r"'matching' is none of \['atss'\]"),
        (["atss"], {"pyramid": None}, "read a pyramid"),
    ],
)
def test_settings_that_do_not_fit_are_refused(heads, options, message):
    with pytest.raises(ValueError, match=message):
        build(*heads, **options)
