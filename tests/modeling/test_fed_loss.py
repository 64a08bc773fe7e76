"""Federated class losses: which classes are scored, and that the others cost nothing."""

import json
from collections import Counter

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances

from co_detr.modeling.assignment import GroundTruth, HungarianMatcher
from co_detr.modeling.criterion import SetCriterion
from co_detr.modeling.fed_loss import FederatedClasses
from co_detr.modeling.losses import FocalLoss
from co_detr.modeling.queries.group import FixedTargets, QueryGroup
from co_detr.modeling.transformer.decoder import Predictions
from co_detr.modeling.transformer.proposals import Proposals


@pytest.fixture(autouse=True)
def fixed_randomness():
    torch.manual_seed(0)


def _chosen(scored):
    return set(scored.nonzero().flatten().tolist())


def test_classes_of_the_batch_are_always_among_the_scored_ones():
    federated = FederatedClasses(num_classes=20, num_sampled=5, image_counts=[1.0] * 20)
    for _ in range(50):
        chosen = _chosen(federated([torch.tensor([3, 3, 17]), torch.tensor([], dtype=torch.long)]))
        assert {3, 17} <= chosen and len(chosen) == 5


def test_more_classes_than_wanted_are_all_scored():
    federated = FederatedClasses(num_classes=20, num_sampled=2, image_counts=[1.0] * 20)
    assert _chosen(federated([torch.tensor([1, 2, 3]), torch.tensor([5])])) == {1, 2, 3, 5}


def test_a_batch_without_objects_scores_a_sample():
    federated = FederatedClasses(num_classes=20, num_sampled=7, image_counts=[1.0] * 20)
    assert len(_chosen(federated([torch.zeros(0, dtype=torch.long)]))) == 7


def test_the_sample_follows_the_square_root_of_the_frequencies():
    # counts 1, 4, 9 have the weights 1, 2, 3. Two of them are drawn one after the other:
    # P(0) = 1/6 + 2/6 * 1/4 + 3/6 * 1/3 = 5/12 and P(1) = 2/6 + 1/6 * 2/5 + 3/6 * 2/3 = 11/15
    federated = FederatedClasses(num_classes=3, num_sampled=2, image_counts=[1, 4, 9])
    draws = Counter()
    for _ in range(4000):
        draws.update(_chosen(federated([torch.zeros(0, dtype=torch.long)])))
    assert draws[0] / 4000 == pytest.approx(5 / 12, abs=0.025)
    assert draws[1] / 4000 == pytest.approx(11 / 15, abs=0.025)


def test_classes_without_images_come_last():
    federated = FederatedClasses(num_classes=4, num_sampled=2, image_counts=[0, 5, 0, 1])
    assert all(_chosen(federated([torch.zeros(0, dtype=torch.long)])) == {1, 3} for _ in range(20))


def test_the_choice_depends_on_the_random_seed_alone():
    federated = FederatedClasses(num_classes=30, num_sampled=5, image_counts=[1.0] * 30)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(_chosen(federated([torch.tensor([4])])))
    assert draws[0] == draws[1] != draws[2]


@pytest.fixture
def lvis(tmp_path):
    counts = [7, 1, 100]
    content = {
        "categories": [
            {"id": i, "name": str(i), "synonyms": [str(i)], "image_count": count}
            for i, count in enumerate(counts, start=1)
        ],
        "images": [],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    register_lvis_instances("fed_lvis", {}, str(tmp_path / "lvis.json"), str(tmp_path))
    yield "fed_lvis"
    DatasetCatalog.remove("fed_lvis")
    MetadataCatalog.remove("fed_lvis")


def test_frequencies_are_read_when_the_first_batch_comes(lvis, tmp_path):
    federated = FederatedClasses(num_classes=3, num_sampled=1, dataset="fed_lvis")
    assert not list(federated.state_dict())
    assert federated._weights is None
    federated([torch.tensor([0])])
    assert federated._weights.tolist() == pytest.approx([7**0.5, 1, 10])
    (tmp_path / "lvis.json").unlink()  # once is enough
    federated([torch.tensor([0])])


def test_frequencies_of_other_classes_are_refused(lvis):
    federated = FederatedClasses(num_classes=5, num_sampled=1, dataset=["fed_lvis"])
    with pytest.raises(ValueError, match="frequencies of 3 classes.*predicts 5"):
        federated([torch.tensor([0])])


def test_a_dataset_without_frequencies_is_refused(tmp_path):
    DatasetCatalog.register("fed_none", lambda: [])
    try:
        MetadataCatalog.get("fed_none").thing_classes = ["a"]
        federated = FederatedClasses(num_classes=1, num_sampled=1, dataset="fed_none")
        with pytest.raises(ValueError, match="fed_none.*no class_image_count.*image_counts"):
            federated([torch.tensor([0])])
    finally:
        DatasetCatalog.remove("fed_none")
        MetadataCatalog.remove("fed_none")


@pytest.mark.parametrize("number", [0, 4])
def test_impossible_samples_are_refused(number):
    with pytest.raises(ValueError, match=f"cannot sample {number} of 3"):
        FederatedClasses(num_classes=3, num_sampled=number, image_counts=[1, 1, 1])


@pytest.mark.parametrize("arguments", [{}, {"dataset": "x", "image_counts": [1, 1, 1]}])
def test_frequencies_are_given_once(arguments):
    with pytest.raises(ValueError, match="either `dataset`"):
        FederatedClasses(num_classes=3, num_sampled=1, **arguments)


# ---------------------------------------------------------------- in the criterion


def _criterion(federated):
    return SetCriterion(
        num_classes=4,
        matcher=HungarianMatcher(class_cost=2.0, l1_cost=5.0, giou_cost=2.0),
        class_loss=FocalLoss(),
        class_weight=1.0,
        federated=federated,
    )


def _scene(class_agnostic):
    """One image of 10 x 10 with an object of class 2, a group of two queries, two proposals."""
    ground_truth = GroundTruth(
        [torch.tensor([2])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])], torch.full((1, 4), 10.0)
    )
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    group = QueryGroup(
        name="fixed",
        content=torch.zeros(1, 2, 8),
        reference=boxes,
        targets=FixedTargets(torch.tensor([[2, 4]]), boxes),
    )
    logits = torch.zeros(2, 1, 2, 4, requires_grad=True)
    proposals = Proposals(
        logits=torch.zeros(1, 2, 4, requires_grad=True),
        boxes=boxes,
        index=torch.zeros(1, 2, dtype=torch.long),
        reference=boxes,
        class_agnostic=class_agnostic,
    )
    return (
        {"fixed": Predictions(logits, boxes.expand(2, 1, 2, 4))},
        [group],
        proposals,
        ground_truth,
    )


def test_classes_that_are_not_scored_cost_nothing_in_any_layer():
    # The present class 2 and the only other one with images, 1. At logits of 0, focal loss is
    # alpha_t * 1/4 * log 2: with alpha 0.25 for the target, with 0.75 for the three others.
    federated = FederatedClasses(num_classes=4, num_sampled=2, image_counts=[0, 1, 0, 0])
    predictions, groups, proposals, ground_truth = _scene(class_agnostic=False)
    terms = _criterion(federated)(predictions, groups, proposals, ground_truth)
    expected = (0.25 + 3 * 0.75) * 0.25 * torch.log(torch.tensor(2.0))
    for name in ("fixed/loss_class_0", "fixed/loss_class_1", "encoder/loss_class"):
        assert terms[name].total.item() == pytest.approx(expected.item(), rel=1e-5), name
    sum(term.total for term in terms.values()).backward()
    gradient = predictions["fixed"].logits.grad
    assert (gradient[..., [0, 3]] == 0).all() and (gradient[..., [1, 2]] != 0).all()


def test_boxes_are_learned_whatever_classes_are_scored():
    scene = _scene(class_agnostic=False)
    federated = FederatedClasses(num_classes=4, num_sampled=1, image_counts=[0, 1, 0, 0])
    with_sample, without = _criterion(federated)(*scene), _criterion(None)(*scene)
    for name in ("fixed/loss_box_0", "fixed/loss_giou_1", "encoder/loss_box"):
        assert torch.equal(with_sample[name].total, without[name].total)
    assert with_sample["fixed/loss_class_0"].total < without["fixed/loss_class_0"].total


def test_class_agnostic_proposals_are_scored_in_full():
    scene = _scene(class_agnostic=True)
    federated = FederatedClasses(num_classes=4, num_sampled=1, image_counts=[0, 1, 0, 0])
    with_sample, without = _criterion(federated)(*scene), _criterion(None)(*scene)
    name = "encoder/loss_class"
    assert torch.equal(with_sample[name].total, without[name].total)
