"""What counts as a wait of the host, and how often a training step does it."""

import itertools

import pytest
import torch
from detectors import MODELS, no_heads
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from golden import co_deformable_detr_config, co_dino_config, dense_head, keep_encoder_heads
from torchvision.ops import nms

from co_detr import model_zoo
from co_detr.engine.host_syncs import HostSyncs, waits
from co_detr.engine.trainer import Trainer
from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.fcos import FCOSHead
from co_detr.modeling.aux_heads.gfl import GFLHead
from co_detr.modeling.aux_heads.paa import PAAHead
from co_detr.modeling.aux_heads.retinanet import RetinaNetHead

SIDE = 64
MOST = 6  # in a step with two auxiliary heads

values = torch.tensor([3.0, 1.0, 3.0])
mask = torch.tensor([True, False, True])
order = torch.tensor([2, 0, 1])
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: values[0].item(),
        lambda: bool(mask[0]),
        lambda: int(order[0]),
        lambda: mask.nonzero(),
        lambda: torch.where(mask),
        lambda: values[mask],
        lambda: values.clone().index_put_((mask,), values[:2]),
        lambda: values.masked_select(mask),
        lambda: values.unique(),
        lambda: order.bincount(),
        lambda: torch.equal(values, values),
        lambda: torch.allclose(values, values),
        lambda: values.repeat_interleave(order),
        lambda: values.tolist(),
        lambda: values.cpu(),
        lambda: nms(boxes, values[:2], 0.5),
    ],
)
def test_reading_a_value_is_a_wait(call):
    with HostSyncs() as syncs:
        call()
    assert syncs.total == 1
    assert syncs.places == {"backward": 1}  # none of the package's lines


@pytest.mark.parametrize(
    "call",
    [
        lambda: values[order],
        lambda: values[None, 1:].expand(4, -1),
        lambda: values.clone().masked_fill_(mask, 0.0),
        lambda: values.clone().__setitem__(mask, 0.0),
        lambda: torch.where(mask, values, 0.0),
        lambda: values.topk(2),
        lambda: values.repeat_interleave(order, output_size=3),
        lambda: torch.rand(4).sort(),
        lambda: values.to(torch.float64).sum(),
    ],
)
def test_working_on_values_is_none(call):
    with HostSyncs() as syncs:
        call()
    assert syncs.total == 0 and syncs.operations > 0


def test_the_gradient_of_a_mask_s_selection_waits_again():
    leaf = values.clone().requires_grad_()
    with HostSyncs() as syncs:
        leaf[mask].sum().backward()
    assert syncs.total == 2
    with HostSyncs() as syncs:  # a new context begins at zero
        leaf[order].sum().backward()
    assert syncs.total == 0


def test_what_is_on_the_host_is_not_waited_for():
    """The meta device stands for a GPU."""
    with HostSyncs("meta") as syncs:
        values.to("meta") + torch.empty(3, device="meta")
        values.tolist(), values[mask], values.cpu(), values[0].item()
    assert syncs.total == 0


@pytest.mark.parametrize("source, target, expected", [("meta", "cpu", 1), ("cpu", "meta", 0)])
def test_a_copy_waits_in_one_direction(source, target, expected):
    a, b = torch.empty(3, device=source), torch.empty(3, device=target)
    copy = torch.ops.aten._to_copy.default, (a,), {"device": torch.device(target)}
    assert waits(*copy, "meta") == expected
    assert waits(torch.ops.aten.copy_.default, (b, a), {}, "meta") == expected


# ---------------------------------------------------------------- a training step


def encoder_heads(name):
    def config():
        cfg = co_deformable_detr_config()
        keep_encoder_heads(cfg, name)
        return cfg

    return config


def with_dense_head(head, **options):
    """A config with this dense head instead of the two others."""

    def config():
        cfg = co_deformable_detr_config()
        del cfg.aux_heads.rcnn
        cfg.aux_heads.head = dense_head(cfg, head, **options)
        del cfg.aux_heads.atss
        return cfg

    return config


def with_masks():
    cfg = co_deformable_detr_config()
    full = model_zoo.get_config("co_deformable_detr/co_deformable_detr_mask_r50_12ep").model
    cfg.aux_heads.rcnn.mask_head = full.aux_heads.rcnn.mask_head
    cfg.aux_heads.rcnn.mask_head.conv_channels = 8
    return cfg


def batch(counts, form=None):
    """Images with so many boxes each, and with masks of the given form."""
    inputs = []
    for count in counts:
        corner = torch.rand(count, 2) * SIDE / 2
        corners = torch.cat([corner, corner + 8 + torch.rand(count, 2) * SIDE / 3], dim=1)
        truth = Instances((SIDE, SIDE), gt_boxes=Boxes(corners), gt_classes=torch.arange(count) % 7)
        if form is not None and count:
            truth.gt_masks = form(corners)
        inputs.append({"image": torch.rand(3, SIDE, SIDE) * 255, "instances": truth})
    return inputs


def bitmasks(corners):
    masks = torch.zeros(len(corners), SIDE, SIDE, dtype=torch.bool)
    for m, (x0, y0, x1, y1) in zip(masks, corners.int().tolist()):
        m[y0:y1, x0:x1] = True
    return BitMasks(masks)


def polygons(corners):
    return PolygonMasks([[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners.tolist()])


def waits_of_a_step(config, inputs):
    """Count everything from the images to the log. SGD: Adam counts its steps on the host."""
    torch.manual_seed(0)
    model = instantiate(config())
    trainer = Trainer(
        model,
        itertools.repeat(inputs),
        torch.optim.SGD(model.parameters(), lr=0.0),
        clip_grad={"max_norm": 0.1},
    )
    with HostSyncs() as syncs:
        trainer.train(0, 1)
    return syncs


@pytest.mark.parametrize(
    "config, most",
    [
        (no_heads, 2),
        (MODELS["hybrid-no-heads"], 2),
        (encoder_heads("atss"), 1),
        (encoder_heads("rcnn"), MOST - 2),  # neither matched nor customized queries
        (co_deformable_detr_config, MOST),
        (co_dino_config, MOST),
    ],
)
def test_a_step_waits_as_often_whatever_the_batch_holds(config, most):
    batches = [[3], [5, 1], [3, 1, 6, 2, 0, 4, 1, 9], [0]]
    seen = [waits_of_a_step(config, batch(counts)) for counts in batches]
    assert seen[0].total <= most, seen[0].places
    for other in seen[1:]:
        assert other.places == seen[0].places


@pytest.mark.parametrize(
    "head, own", [(RetinaNetHead, 0), (FCOSHead, 0), (GFLHead, 0), (PAAHead, 1)]
)
def test_what_a_dense_head_waits_for(head, own):
    """All of them know on the host how many customized queries there are, which counts as theirs
    here, as ATSS does; PAA fits its mixtures there besides."""
    with_atss = waits_of_a_step(with_dense_head(ATSSHead), batch([3, 1]))
    config = with_dense_head(head)
    seen = [waits_of_a_step(config, batch(counts)) for counts in ([3, 1], [5, 0, 2, 9], [0])]
    assert seen[0].total == with_atss.total + own, seen[0].places
    for other in seen[1:]:
        assert other.places == seen[0].places
    own_places = [place for place in seen[0].places if "aux_heads/" in place]
    assert len(own_places) == own


@pytest.mark.parametrize("form", [bitmasks, polygons])
def test_masks_cost_as_many_waits_for_any_number_of_images(form):
    seen = [waits_of_a_step(with_masks, batch(counts, form)) for counts in ([3], [2, 0, 4, 1, 3])]
    # What detectron2's polygons read is on the host by then.
    seen = [
        {place: count for place, count in syncs.places.items() if "structures/masks" not in place}
        for syncs in seen
    ]
    assert seen[0] == seen[1]
    # the number of positives, the levels to pool from, and what polygons are drawn for
    assert sum(seen[0].values()) <= MOST + (2 if form is bitmasks else 4)


def test_a_watched_step_computes_the_same():
    """It takes the implementations for other devices, which must not differ from those for the
    CPU: NMS and RoI pooling."""
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = instantiate(co_deformable_detr_config()).train()
        inputs = batch([3, 0, 2])
        if watched:
            with HostSyncs():
                losses = model(inputs)
        else:
            losses = model(inputs)
        sum(losses.values()).backward()
        norms = {n: p.grad.norm() for n, p in model.aux_heads.named_parameters()}
        results.append(({n: loss.detach() for n, loss in losses.items()}, norms))
    for plain, watched in zip(*results):
        assert plain.keys() == watched.keys()
        for name, value in plain.items():
            torch.testing.assert_close(watched[name], value, atol=1e-4, rtol=5e-3, msg=name)
