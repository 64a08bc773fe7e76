"""DN-DETR's instability of the matching."""

import pytest
import torch

from co_detr.analysis.instability import (
    Change,
    by_identity,
    changes,
    checkpoints_of_run,
    instability,
    largest_instability,
)


def test_a_query_counts_when_its_object_is_another_than_before():
    # The first keeps object 0, two exchange 1 and nothing, one gets 2 instead of 3.
    before = torch.tensor([0, 1, -1, 3])
    after = torch.tensor([0, -1, 1, 2])
    assert instability(before, after) == 3
    assert instability(after, after) == 0


def test_an_image_without_objects_is_stable():
    images = torch.tensor([[-1, -1, -1], [-1, -1, 0]])
    after = torch.tensor([[-1, -1, -1], [0, -1, -1]])
    assert instability(images, after).tolist() == [0, 2]


def test_matchings_of_other_pictures_cannot_be_compared():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\).*same pictures"):
        instability(torch.zeros(2, 3), torch.zeros(2, 4))


def test_ranked_queries_are_known_by_their_token():
    # Token 5 has object 0 and falls from the first to the last place; token 3 with object 1 drops
    # out, for token 0. By index that would be four changes, of three queries.
    before = by_identity(torch.tensor([[0, 1, -1]]), torch.tensor([[5, 3, 2]]), 6)
    after = by_identity(torch.tensor([[1, -1, 0]]), torch.tensor([[0, 2, 5]]), 6)
    assert before.tolist() == [[-1, -1, -1, 1, -1, 0]]
    assert after.tolist() == [[1, -1, -1, -1, -1, 0]]
    assert instability(before, after).tolist() == [2]


def test_the_bound_is_two_changes_per_object():
    batches = [[{"instances": [None] * 4}, {"instances": []}], [{"instances": [None]}]]
    assert largest_instability(batches) == pytest.approx(10 / 3)


def test_changes_from_checkpoint_to_checkpoint():
    # Two batches of two images and one, with 2, 0 and 1 changes, then none.
    first = [torch.tensor([[0, -1], [-1, -1]]), torch.tensor([[0, -1]])]
    second = [torch.tensor([[-1, 0], [-1, -1]]), torch.tensor([[0, 1]])]
    found = list(changes([(50, first), (100, second), (250, second)]))
    error = (((2 - 1) ** 2 + (0 - 1) ** 2 + 0) / 2 / 3) ** 0.5
    assert found == [Change(50, 100, 1.0, pytest.approx(error)), Change(100, 250, 0.0, 0.0)]


def test_one_image_has_no_error():
    assert list(changes([(1, [torch.tensor([[0]])]), (2, [torch.tensor([[-1]])])])) == [
        Change(1, 2, 1.0, 0.0)
    ]


def test_checkpoints_go_by_their_number(tmp_path):
    for name in ("model_0000999.pth", "model_0000049.pth", "model_10000049.pth", "model_best.pth"):
        (tmp_path / name).touch()
    (tmp_path / "model_0000549.pth").touch()
    assert list(checkpoints_of_run(tmp_path)) == [50, 550, 1000, 10000050]
    assert list(checkpoints_of_run(tmp_path, every=2)) == [550, 10000050]
