"""The ground truth of a batch in one tensor: padding, matching, looking up."""

import torch
from detectron2.structures import Boxes, Instances

from co_detr.modeling.aux_heads.truth import PaddedTruth

BOX, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]
NOTHING = [0.0] * 4


def truth(*images):
    return PaddedTruth.from_instances(
        [
            Instances((50, 100), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes).long())
            for boxes, classes in images
        ]
    )


def test_images_are_filled_up_to_the_one_with_most_objects():
    found = truth(([BOX], [4]), ([], []), ([FAR, BOX], [0, 2]))
    assert found.boxes.tolist() == [[BOX, NOTHING], [NOTHING, NOTHING], [FAR, BOX]]
    assert found.classes.tolist() == [[4, -1], [-1, -1], [0, 2]]
    assert found.real.tolist() == [[True, False], [False, False], [True, True]]
    assert [boxes.tolist() for boxes in found.boxes_by_image()] == [[BOX], [], [FAR, BOX]]


def test_there_is_always_one_place():
    found = truth(([], []), ([], []))
    assert found.boxes.tolist() == [[NOTHING]] * 2 and found.classes.tolist() == [[-1]] * 2
    assert (
        found.match(torch.tensor([[NOTHING, BOX], [NOTHING, FAR]]), 0.5).tolist() == [[-1] * 2] * 2
    )


def test_boxes_belong_to_the_object_they_overlap_most():
    found = truth(([FAR, BOX, BOX], [0, 1, 2]), ([BOX], [3]))
    half, less = [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.9]  # IoU .5 and .49
    own = found.boxes
    boxes = torch.cat([own, torch.tensor([[half, less, FAR, NOTHING]]).expand(2, -1, -1)], dim=1)
    matches = found.match(boxes, 0.5)
    # of the twins each is its own; the padding and what has no area belong to none
    assert matches[0].tolist() == [0, 1, 2, 1, -1, 0, -1]
    assert matches[1].tolist() == [0, -1, -1, 0, -1, -1, -1]
    labels, targets = found.look_up(matches, num_classes=7)
    assert labels[0].tolist() == [0, 1, 2, 1, 7, 0, 7]
    assert labels[1].tolist() == [3, 7, 7, 3, 7, 7, 7]
    assert targets[0, 4:].tolist() == [NOTHING, FAR, NOTHING]
