"""The ground truth of a batch in one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from co_detr.ops.boxes import broadcast_iou, has_area

from ..sampling import rows_at

BACKGROUND, IGNORED = -1, -2
"""What stands in matches where there is no object's number."""


@dataclass(frozen=True, eq=False)
class PaddedTruth:
    """The objects of N images, filled up to G per image, as many as the image with most has.

    How many an image has is known on the host, so nothing waits for the device. G is at least 1:
    what looks for the best object finds something, whatever the batch holds.

    Attributes:
        boxes: (N, G, 4) absolute XYXY; zeros in the padding, so that nothing overlaps it.
        classes: (N, G) labels; -1 in the padding.
        counts: objects of each image.
    """

    boxes: Tensor
    classes: Tensor
    counts: list[int]

    @classmethod
    def from_instances(cls, gt_instances: Sequence[Instances]) -> "PaddedTruth":
        """Read `gt_boxes` and `gt_classes`."""
        counts = [len(gt) for gt in gt_instances]
        boxes = torch.cat([gt.gt_boxes.tensor for gt in gt_instances])
        classes = torch.cat([gt.gt_classes for gt in gt_instances])
        # where objects stand among those of all images; the row after the last is padding
        number, have = torch.arange(max(1, *counts)), torch.tensor(counts)[:, None]
        rows = (have.cumsum(0) - have + number).masked_fill(number >= have, len(boxes))
        rows = rows.to(boxes.device)
        boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])[rows]
        classes = torch.cat([classes, classes.new_full((1,), -1)])[rows]
        return cls(boxes, classes, counts)

    @property
    def real(self) -> Tensor:
        """(N, G) bool, False in the padding."""
        return self.classes >= 0

    def boxes_by_image(self) -> list[Tensor]:
        """Per image (G_i, 4), without padding."""
        return [boxes[:count] for boxes, count in zip(self.boxes, self.counts)]

    def match(self, boxes: Tensor, min_iou: float) -> Tensor:
        """Match boxes, of which the first G are those of the objects themselves.

        Args:
            boxes: (N, m, 4) absolute XYXY; those without area are padding.
            min_iou: a box belongs to the object that it overlaps most, if that much.

        Returns:
            (N, m) int64 indices of objects of the image, -1 where a box belongs to none.
        """
        iou = broadcast_iou(self.boxes[:, :, None], boxes[:, None])  # (N, G, m)
        # Each object prefers itself (on the diagonal) to another one exactly on top of it.
        iou.diagonal(dim1=1, dim2=2).fill_(2)
        quality, matches = iou.max(dim=1)
        return matches.masked_fill((quality < min_iou) | ~has_area(boxes), -1)

    def look_up(self, matches: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Look up the class and the box of matched objects.

        Args:
            matches: (N, m) int64 indices of objects of the same image; negative for no match.
            num_classes: the label of what has no match.

        Returns:
            labels (N, m) and boxes (N, m, 4), absolute XYXY, zeros where nothing matched.
        """
        index, nothing = matches.clamp(min=0), matches < 0
        labels = self.classes.gather(1, index).masked_fill(nothing, num_classes)
        return labels, rows_at(self.boxes, index).masked_fill(nothing[..., None], 0)
