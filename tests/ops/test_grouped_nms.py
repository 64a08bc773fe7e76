"""NMS of many groups: by hand, and the one call for other devices against those on a CPU."""

import pytest
import torch

from co_detr.engine.host_syncs import HostSyncs
from co_detr.ops.grouped_nms import grouped_nms

BOX = [0.0, 0.0, 10.0, 10.0]
NEAR = [0.0, 1.0, 10.0, 10.0]  # IoU .9
FAR = [50.0, 50.0, 60.0, 60.0]


def on_cpu(*arguments):
    return grouped_nms(*arguments)


def watched(*arguments):
    """What runs on other devices."""
    with HostSyncs() as syncs:
        kept = grouped_nms(*arguments)
    assert syncs.waits == {"torchvision::nms": 1}
    return kept


@pytest.mark.parametrize("implementation", [on_cpu, watched])
def test_boxes_of_other_groups_and_images_do_not_count(implementation):
    boxes = torch.tensor([[BOX, NEAR, BOX, FAR], [NEAR, FAR, NEAR, NEAR]])
    scores = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.5, 0.4, 0.3, 0.6]])
    kept = implementation(boxes, scores, [2, 2], 0.7)
    assert kept.tolist() == [[False, True, True, True], [True, True, False, True]]
    kept = implementation(boxes, scores, [4], 0.7)
    assert kept.tolist() == [[False, False, True, True], [False, True, False, True]]
    kept = implementation(boxes, scores, [1, 3], 0.95)
    assert kept.tolist() == [[True] * 4, [True, True, False, True]]


def test_one_call_keeps_what_a_call_per_group_keeps():
    torch.manual_seed(0)
    corner = torch.rand(3, 500, 2) * 1200
    boxes = torch.cat([corner, corner + torch.rand(3, 500, 2) * 300], dim=2)
    boxes[:, ::50, 2:] = boxes[:, ::50, :2]  # some without area
    scores, groups = torch.rand(3, 500), [300, 150, 1, 49]
    kept = on_cpu(boxes, scores, groups, 0.2)
    assert 0.2 < kept.float().mean() < 0.8
    assert torch.equal(watched(boxes, scores, groups, 0.2), kept)
