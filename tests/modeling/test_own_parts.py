"""Mistakes in heads and query sources of one's own are told with their class and method."""

import pytest
import torch
from detectors import build, full, no_heads, one_head, train_step, usual_batch
from detectron2.structures import Instances
from torch import nn

from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.base import AuxHead, AuxOutput, output_of
from co_detr.modeling.aux_heads.dense import DenseHead, DenseTargets
from co_detr.modeling.losses import LossTerm
from co_detr.modeling.queries.group import FixedTargets, HungarianTargets, QueryGroup, groups_of

pytestmark = pytest.mark.usefixtures("fixed_seed")

ONE = torch.ones((), requires_grad=True)


def train_with(**methods):
    """A step of a model with an ATSS head of which these methods are other ones."""
    cfg = one_head("atss")()
    cfg.aux_heads.atss._target_ = type("OwnHead", (ATSSHead,), methods)
    train_step(build(cfg), usual_batch())


@pytest.mark.parametrize("method", ["assign", "losses"])
def test_a_dense_head_without_a_method_is_named(method):
    with pytest.raises(NotImplementedError, match=rf"OwnHead has no {method}\("):
        train_with(**{method: getattr(DenseHead, method)})


@pytest.mark.parametrize(
    "losses, error, message",
    [
        (None, TypeError, "None, wanted is a dict"),
        (
            {"loss_box": ONE},
            TypeError,
            r"'loss_box' as a torch.Tensor .* is LossTerm\(total, count",
        ),
        ({"loss_box": LossTerm(ONE[None], 1)}, ValueError, r".*total .* shape \(1,\), .*\.sum\(\)"),
        ({"loss_box": LossTerm(1.0, 1)}, ValueError, "'loss_box' with a total that is float"),
        (
            {"loss_box": LossTerm(ONE, ONE[None])},
            ValueError,
            r".*count .* shape \(1,\), .*\.sum\(\)",
        ),
        ({"giou": LossTerm(ONE, 1)}, ValueError, "'giou': .* but not trained. Call it 'loss_giou'"),
    ],
)
def test_losses_of_a_dense_head_are_looked_at(losses, error, message):
    with pytest.raises(error, match=f"OwnHead returned {message}"):
        train_with(losses=lambda self, anchors, predictions, targets: losses)


def test_a_loss_that_would_not_be_trained_is_refused_of_any_head():
    class Head(AuxHead):
        def forward(self, name):
            return AuxOutput({name: LossTerm(ONE, 1)}, [])

    output_of(Head(), "own_loss")
    with pytest.raises(ValueError, match="Head returned 'giou': .*not trained"):
        output_of(Head(), "giou")


@pytest.mark.parametrize(
    "targets, error, message",
    [
        (lambda n, a: torch.zeros(n, a).long(), TypeError, "returned a torch.Tensor .*matched_tar"),
        (
            lambda n, a: DenseTargets(torch.zeros(n, a), torch.zeros(n, a, 4)),
            ValueError,
            r"makes labels that are a torch.Tensor of torch.float32 .* of int64 and shape \(2, ",
        ),
        (
            lambda n, a: DenseTargets(torch.zeros(n, a).long(), torch.zeros(a, 4)),
            ValueError,
            r"makes boxes that .* of floating-point numbers and shape \(2, \d+, 4\)",
        ),
    ],
)
def test_targets_of_a_dense_head_are_looked_at(targets, error, message):
    with pytest.raises(error, match=f"OwnHead.assign {message}"):
        train_with(assign=lambda self, anchors, valid, *_: targets(*valid.shape))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda matches: matches.float(), "makes matches that are a torch.Tensor of torch.float32"),
        (lambda matches: matches[0], r"makes matches .* wanted is .* of int64 and shape \(2, "),
        (lambda matches: matches + 2, "to the object 2 of image 0 .* has 2: .* BACKGROUND"),
        # the number is that of an object of the other image
        (lambda matches: matches + 1, "to the object 1 of image 1 .* has 1: .* BACKGROUND"),
    ],
)
def test_matches_of_a_dense_head_are_looked_at(change, message):
    def assign(self, anchors, valid, predictions, truth):
        matches = change(torch.zeros_like(valid, dtype=torch.int64))
        if "image 1" in message:
            matches[0] = 0
        return self.matched_targets(matches, valid, truth)

    with pytest.raises(ValueError, match=f"OwnHead.assign .*{message}"):
        train_with(assign=assign)


class Other(AuxHead):
    """A head that is not dense, and hands over what it is given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, features, image_sizes, gt_instances):
        return self.output


@pytest.mark.parametrize(
    "output, error, message",
    [
        ({"loss": ONE}, TypeError, r"Other.forward returned dict, wanted is AuxOutput\(losses, sa"),
        (AuxOutput({}, []), ValueError, r"'atss' have the fields \[\].* for each of 2 images"),
        (
            AuxOutput({}, [Instances((9, 9))] * 2),
            ValueError,
            r"'gt_boxes', 'gt_classes', 'proposal",
        ),
    ],
)
def test_outputs_of_other_heads_are_looked_at(output, error, message):
    model = build(one_head("atss")())
    model.aux_heads["atss"] = Other(output)
    with pytest.raises(error, match=message):
        train_step(model, usual_batch())


@pytest.mark.parametrize("method, inputs", [("forward", 3), ("inference", 2)])
def test_a_head_without_a_method_is_named(method, inputs):
    head = type("OwnHead", (AuxHead,), {})()
    with pytest.raises(NotImplementedError, match=rf"OwnHead has no {method}\("):
        getattr(head, method)(*[None] * inputs)


# ---------------------------------------------------------------------------------------------
# query sources


def group(targets=None):
    content, reference = torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.5)
    return QueryGroup("own", content, reference, targets or HungarianTargets())


class OwnQueries(nn.Module):
    def forward(self, returned):
        return returned


@pytest.mark.parametrize(
    "returned, found",
    [
        (None, "None"),
        (group(), "co_detr.modeling.queries.group.QueryGroup"),
        ([group(), ONE], "a list with a torch.Tensor of torch.float32"),
    ],
)
def test_what_a_query_source_returns_is_looked_at(returned, found):
    with pytest.raises(TypeError, match=f"OwnQueries.forward returned {found}.* a list of QueryGr"):
        groups_of(OwnQueries(), returned)
    model = build(no_heads())
    model.query_sources["own"] = OwnQueries()
    model.query_sources["own"].forward = lambda *_: returned
    with pytest.raises(TypeError, match="OwnQueries.forward returned"):
        train_step(model, usual_batch())


def test_a_query_source_may_yield_its_groups():
    own = group()
    assert groups_of(OwnQueries(), (x for x in [own])) == [own]


@pytest.mark.parametrize(
    "classes, boxes",
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 4)),
        (torch.zeros(2, 5).long(), torch.zeros(2, 3, 4)),
        (torch.zeros(2, 3).long(), torch.zeros(3, 4)),
    ],
)
def test_fixed_targets_fit_their_group(classes, boxes):
    with pytest.raises(ValueError, match=r"group 'own': .* wanted are int64 of shape \(2, 3\) and"):
        group(FixedTargets(classes, boxes))


# ---------------------------------------------------------------------------------------------
# what is no module


@pytest.mark.parametrize("name", ["aux_heads.foo", "query_sources.foo", "query_sources.customized"])
def test_a_part_that_is_no_module_is_named(name):
    cfg = full()
    kind, part = name.split(".")
    cfg[kind][part] = 1
    with pytest.raises(TypeError, match=rf"{name} is 1, wanted is a module: .*model.{name} = L\("):
        build(cfg)
