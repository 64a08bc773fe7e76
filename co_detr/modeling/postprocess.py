"""From predictions of the matching queries to detections."""

from collections.abc import Sequence

from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from co_detr.ops.boxes import to_absolute_xyxy
from co_detr.ops.soft_nms import Suppression


class TopKDetections(nn.Module):
    """The best (query, class) pairs by sigmoid score; one query may yield several detections.

    Args:
        max_detections: kept per image.
        suppression: applied to the best Q pairs, before the best `max_detections` are kept.
            DETR's matching makes it dispensable; the released Co-DINO models gain from `SoftNMS`.
    """

    def __init__(self, *, max_detections: int = 100, suppression: Suppression | None = None):
        super().__init__()
        self.max_detections = max_detections
        self.suppression = suppression

    def forward(
        self, logits: Tensor, boxes: Tensor, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Read detections off one layer.

        Args:
            logits: (N, Q, num_classes).
            boxes: (N, Q, 4) normalized cxcywh.
            image_sizes: valid (height, width) of each image.

        Returns:
            per image `pred_boxes` (absolute XYXY in the model input, clipped), `scores`,
            `pred_classes`, best first.
        """
        Q, num_classes = logits.shape[1:]
        scores = logits.float().sigmoid().flatten(1)
        candidates = self.max_detections if self.suppression is None else Q
        scores, index = scores.topk(min(candidates, scores.shape[1]), dim=1)
        detections = []
        for image, (height, width) in enumerate(image_sizes):
            chosen = boxes[image, index[image] // num_classes].float()
            scale = chosen.new_tensor([width, height, width, height])
            found = Instances((height, width))
            found.pred_boxes = Boxes(to_absolute_xyxy(chosen, scale))
            found.pred_boxes.clip((height, width))
            found.scores = scores[image]
            found.pred_classes = index[image] % num_classes
            if self.suppression is not None:
                kept, lowered = self.suppression(
                    found.pred_boxes.tensor, found.scores, found.pred_classes
                )
                found = found[kept]
                found.scores = lowered
            detections.append(found[: self.max_detections])
        return detections
