"""How auxiliary heads' samples become queries: counts, subsets, padding, values."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from co_detr.modeling.assignment import GroundTruth
from co_detr.modeling.aux_heads.base import AuxOutput
from co_detr.modeling.queries.customized import CustomizedQueries
from co_detr.modeling.queries.group import visibility

C, NUM_CLASSES = 8, 3
BACKGROUND, IGNORED = NUM_CLASSES, -1
SIZE = (100, 200)  # height, width of every image


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def samples(*labels, features=True):
    """Samples with these labels; everything else about sample i can be told from i."""
    count = len(labels)
    index = torch.arange(count, dtype=torch.float32)
    classes = torch.tensor(labels, dtype=torch.long)
    boxes = torch.stack([index, index, index + 20, index + 10], dim=1).view(count, 4)
    positive = (classes >= 0) & (classes < NUM_CLASSES)
    result = Instances(SIZE, proposal_boxes=Boxes(boxes), gt_classes=classes)
    result.gt_boxes = Boxes((boxes + 2) * positive[:, None])
    if features:
        result.features = torch.randn(count, C)
    return result


def ground_truth(num_images):
    return GroundTruth(
        [torch.zeros(0).long()] * num_images,
        [torch.zeros(0, 4)] * num_images,
        torch.tensor([200.0, 100, 200, 100]).expand(num_images, 4),
    )


def make_source(heads=("atss",), **settings):
    return CustomizedQueries(heads=heads, num_classes=NUM_CLASSES, embed_dim=C, **settings)


def group_of(source, *images):
    (group,) = source(None, None, ground_truth(len(images)), {"atss": AuxOutput({}, list(images))})
    return group


def sample_indices(group):
    """Which sample became which query, read off the left side of its box."""
    left = (group.reference[..., 0] - group.reference[..., 2] / 2) * SIZE[1]
    return left.round().long().tolist()


def test_positives_of_every_image_become_queries():
    source = make_source(min_queries=1)
    one = samples(BACKGROUND, 2, BACKGROUND, 0, IGNORED)
    other = samples(1, BACKGROUND, 1)
    group = group_of(source, one, other)
    assert group.name == "customized/atss"
    first, second = sample_indices(group)
    assert sorted(first) == [1, 3] and sorted(second) == [0, 2]
    assert group.targets.classes[0].tolist() == [{1: 2, 3: 0}[i] for i in first]
    assert group.targets.classes[1].tolist() == [1, 1]
    assert group.valid.all()


def test_references_and_targets_by_hand():
    group = group_of(make_source(min_queries=1), samples(BACKGROUND, BACKGROUND, BACKGROUND, 2))
    # sample 3: (3, 3, 23, 13) in an image of 200 x 100, its object 2 pixels further
    torch.testing.assert_close(group.reference, torch.tensor([[[0.065, 0.08, 0.1, 0.1]]]))
    torch.testing.assert_close(group.targets.boxes, torch.tensor([[[0.075, 0.10, 0.1, 0.1]]]))
    assert not group.reference.requires_grad and not group.targets.boxes.requires_grad


def test_too_many_positives_are_cut_to_a_random_subset_of_positives():
    source = make_source(min_queries=1, max_queries=4)
    image = samples(*([0, BACKGROUND, 1, IGNORED] * 10))
    seen = set()
    for _ in range(50):
        group = group_of(source, image)
        (chosen,) = sample_indices(group)
        assert len(set(chosen)) == 4 and all(i % 2 == 0 for i in chosen)
        assert group.valid.all() and (group.targets.classes < NUM_CLASSES).all()
        seen.update(chosen)
    assert seen == set(range(0, 40, 2))  # every positive has its turn


def test_too_few_positives_are_filled_up_with_negatives():
    source = make_source(min_queries=1)
    full = samples(0, 1, 2, 0, 1)
    poor = samples(IGNORED, BACKGROUND, 2, BACKGROUND, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND)
    seen = set()
    for _ in range(50):
        group = group_of(source, full, poor)
        chosen = sample_indices(group)[1]
        assert chosen[0] == 2  # positives first
        assert len(set(chosen)) == 5 and set(chosen[1:]) <= {1, 3, 5, 6, 7}
        assert group.targets.classes[1].tolist() == [2] + [BACKGROUND] * 4
        assert group.valid.all()
        assert not group.targets.boxes[1, 1:].isnan().any()
        seen.update(chosen)
    assert seen == {1, 2, 3, 5, 6, 7}


def test_masked_padding_takes_no_negatives():
    source = make_source(min_queries=1, padding="mask")
    group = group_of(source, samples(0, 1, 2, BACKGROUND), samples(BACKGROUND, 2, BACKGROUND))
    assert group.valid.tolist() == [[True] * 3, [True, False, False]]
    assert group.targets.classes[1].tolist() == [2, BACKGROUND, BACKGROUND]
    mask = visibility([group])[0].mask
    assert mask[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_a_negative_never_passes_for_a_positive(monkeypatch):
    """Not even where its random rank rounds up to the next integer."""
    almost_one = 1 - 2**-24
    monkeypatch.setattr(
        "co_detr.modeling.queries.customized.random_rank",
        lambda like: torch.full(like.shape, almost_one),
    )
    group = group_of(make_source(padding="mask"), samples(0, BACKGROUND, IGNORED, BACKGROUND))
    assert group.valid.tolist() == [[True] + [False] * 8]
    group = group_of(make_source(), samples(IGNORED, BACKGROUND, 0))
    assert group.valid.tolist() == [[True, True] + [False] * 7]


@pytest.mark.parametrize("padding", ["negatives", "mask"])
def test_without_boxes_there_are_still_queries(padding):
    source = make_source(min_queries=3, padding=padding)
    group = group_of(source, samples(*[BACKGROUND] * 5), samples(*[BACKGROUND] * 7))
    assert group.content.shape == (2, 3, C)
    assert (group.targets.classes == BACKGROUND).all()
    assert group.valid.all() if padding == "negatives" else not group.valid.any()


@pytest.mark.parametrize("padding", ["negatives", "mask"])
@pytest.mark.parametrize("labels", [(0, BACKGROUND), (IGNORED, IGNORED), ()])
def test_images_with_fewer_candidates_than_queries(padding, labels):
    source = make_source(min_queries=4, padding=padding)
    group = group_of(source, samples(*labels), samples(*[1] * 6))
    assert group.content.shape == (2, 6, C)
    allowed = {"negatives": (0, 1, 2, BACKGROUND), "mask": (0, 1, 2)}[padding]
    expected = [label for label in labels if label in allowed]
    assert group.valid[0].sum() == len(expected)
    assert group.targets.classes[0].tolist() == expected + [BACKGROUND] * (6 - len(expected))
    assert group.content.isfinite().all() and group.reference.isfinite().all()


def test_every_head_has_its_own_count_and_parameters():
    source = make_source(heads=("rcnn", "atss"), min_queries=2, max_queries=3, weight=0.5)
    same = [samples(0, 1, 2, 0), samples(1)]
    less = [samples(0, BACKGROUND, BACKGROUND), samples(BACKGROUND, BACKGROUND)]
    groups = source(
        None,
        None,
        ground_truth(2),
        {"atss": AuxOutput({}, less), "unused": AuxOutput({}, []), "rcnn": AuxOutput({}, same)},
    )
    assert [g.name for g in groups] == ["customized/rcnn", "customized/atss"]
    assert [g.num_queries for g in groups] == [3, 2]
    assert all(g.weight == 0.5 and g.sees == () and g.num_blocks == 1 for g in groups)


def test_a_head_without_output_is_an_error():
    with pytest.raises(KeyError, match="atss"):
        make_source()(None, None, ground_truth(1), {"rcnn": AuxOutput({}, [samples(0)])})


def test_features_that_a_head_does_not_hand_over_are_missed_by_name():
    with pytest.raises(ValueError, match="head 'atss' have no features.*use_features=False"):
        group_of(make_source(), samples(0, features=False))


def test_counts_reach_the_host_once(monkeypatch):
    copies = []
    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__int__", "__index__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):
            copies.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    source = make_source(heads=("rcnn", "atss"))
    outputs = {name: AuxOutput({}, [samples(0, 1), samples(2)]) for name in ("rcnn", "atss")}
    source(None, None, ground_truth(2), outputs)
    assert copies == ["tolist"]


# ---------------------------------------------------------------------------------------------
# contents


def test_features_are_added_to_the_content_and_carry_gradient():
    image = samples(BACKGROUND, 1, BACKGROUND)
    image.features = torch.randn(3, C, requires_grad=True)
    source = make_source(min_queries=1)
    group = group_of(source, image)
    (gradient,) = torch.autograd.grad((group.content * torch.randn(C)).sum(), image.features)
    assert gradient[1].abs().sum() > 0 and gradient[[0, 2]].abs().sum() == 0

    plain = make_source(min_queries=1, use_features=False)
    plain.load_state_dict(source.state_dict(), strict=False)
    without = group_of(plain, samples(BACKGROUND, 1, BACKGROUND, features=False))
    feature = source.feature_norm[0](source.feature_linear[0](image.features[1]))
    torch.testing.assert_close(group.content - without.content, feature.view(1, 1, C))


def test_position_is_part_of_the_encoding_plus_a_scalar_of_the_head():
    source = make_source(heads=("rcnn", "atss"), min_queries=1)
    outputs = {name: AuxOutput({}, [samples(1)]) for name in ("rcnn", "atss")}
    groups = source(None, None, ground_truth(1), outputs)
    for index, group in enumerate(groups):
        encoded = source.encode[index](group.reference)
        torch.testing.assert_close(group.position, encoded[..., :C] + source.head_position[index])


def test_without_a_fixed_position_the_decoder_computes_it():
    source = make_source(min_queries=1, fixed_position=False, use_features=False)
    assert not hasattr(source, "head_position")
    group = group_of(source, samples(1, features=False))
    assert group.position is None
    torch.testing.assert_close(group.content, source.encode[0](group.reference))


def test_boxes_may_leave_the_image_but_their_embedding_does_not():
    source = make_source(min_queries=1, use_features=False)
    image = samples(1)
    image.proposal_boxes = Boxes([[-40.0, -30, 20, 10]])
    group = group_of(source, image)
    torch.testing.assert_close(group.reference, torch.tensor([[[-0.05, -0.1, 0.3, 0.4]]]))
    clamped = torch.tensor([[[1e-5, 1e-5, 0.3, 0.4]]])
    content = source.encode[0](clamped)[..., C:]
    torch.testing.assert_close(group.content, content, atol=1e-5, rtol=0)


def test_box_encoding_by_hand():
    """The first feature of a coordinate is the sine, the second the cosine of 2 pi times it."""
    source = make_source(min_queries=1, use_features=False)
    encode = source.encode[0]
    embedded = []
    encode.linear.register_forward_pre_hook(lambda _m, x: embedded.append(x[0]))
    encode(torch.tensor([[[0.25, 0.5, 0.125, 1.0]]]))
    features = embedded[0].view(4, C // 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, -1.0], [math.sqrt(0.5)] * 2, [0.0, 1.0]])
    torch.testing.assert_close(features[:, :2], expected, atol=1e-6, rtol=0)
    # the next pair turns a hundred times slower, with temperature 10000
    torch.testing.assert_close(
        features[0, 2:], torch.tensor([math.pi / 200, 1.0]), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"padding": "zeros"}, "zeros"),
        ({"min_queries": 0}, "0, 300"),
        ({"min_queries": 10, "max_queries": 5}, "10, 5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_source(**settings)
