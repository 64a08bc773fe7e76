"""Random subsets of fixed size: who is drawn, how many, and that everyone has a turn."""

import torch

from co_detr.modeling.sampling import draw_labelled, ordered_samples, random_subset


def chosen(index, drawn):
    return [sorted(i[d].tolist()) for i, d in zip(index, drawn)]


def test_few_candidates_are_all_drawn_and_come_first():
    candidates = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    index, drawn = random_subset(candidates, 3)
    assert drawn.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    found = chosen(index, drawn)
    assert found[:2] == [[1, 3], []] and len(set(found[2])) == 3
    index, drawn = random_subset(candidates, 100)
    assert chosen(index, drawn) == [[1, 3], [], [0, 1, 2, 3, 4]]


def test_a_row_can_have_a_limit_of_its_own():
    candidates = torch.ones(3, 6, dtype=torch.bool)
    _, drawn = random_subset(candidates, 4, torch.tensor([2, 0, 9]))
    assert drawn.sum(dim=1).tolist() == [2, 0, 4]


def test_every_subset_is_equally_likely():
    """Two of the four candidates: six pairs, each in a sixth of 6000 rows (deviation 29)."""
    torch.manual_seed(0)
    candidates = torch.tensor([True, False, True, True, True]).expand(6000, 5)
    index, drawn = random_subset(candidates, 2)
    assert drawn.all()
    pairs, counts = index.sort(dim=1).values.unique(dim=0, return_counts=True)
    assert len(pairs) == 6 and not (index == 1).any()
    assert ((counts - 1000).abs() < 120).all()


def test_negatives_fill_up_what_positives_leave():
    positive = torch.zeros(3, 12, dtype=torch.bool)
    positive[0, :6] = positive[1, 4] = True
    negative = torch.zeros(3, 12, dtype=torch.bool)
    negative[0, 6:] = negative[1, 5:] = negative[2, :2] = True
    (_, taken), (index, filled) = draw_labelled(positive, negative, 8, 0.5)
    assert taken.sum(dim=1).tolist() == [4, 1, 0]  # at most half of eight
    assert filled.sum(dim=1).tolist() == [4, 7, 2]
    assert chosen(index, filled)[1:] == [[5, 6, 7, 8, 9, 10, 11], [0, 1]]


def test_samples_keep_their_order_and_positives_lead():
    positive = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    negative = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]]).bool()
    index, drawn = ordered_samples(positive, negative, 10, 0.5)
    assert drawn.tolist() == [[True] * 5 + [False], [True] + [False] * 5]
    assert index[0, :5].tolist() == [1, 4, 0, 3, 5] and index[1, 0] == 2
    index, drawn = ordered_samples(positive, negative, 3, 0.4)
    assert index.shape == (2, 3) and drawn.sum(dim=1).tolist() == [3, 1]
    assert index[0, 0] in (1, 4) and (index[0, 1:].diff() > 0).all()


def test_subsets_repeat_with_the_seed():
    candidates = torch.rand(4, 50) < 0.5
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(random_subset(candidates, 9)[0])
    assert torch.equal(*results)
