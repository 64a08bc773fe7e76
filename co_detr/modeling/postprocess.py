"""From predictions of the matching queries to detections."""

from collections.abc import Sequence

from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from co_detr.ops.boxes import to_absolute_xyxy


class TopKDetections(nn.Module):
    """The best (query, class) pairs by sigmoid score; one query may yield several detections.

    Args:
        max_detections: kept per image.
    """

    def __init__(self, *, max_detections: int = 100):
        super().__init__()
        self.max_detections = max_detections

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
        num_classes = logits.shape[-1]
        scores = logits.float().sigmoid().flatten(1)
        scores, index = scores.topk(min(self.max_detections, scores.shape[1]), dim=1)
        detections = []
        for image, (height, width) in enumerate(image_sizes):
            chosen = boxes[image, index[image] // num_classes].float()
            scale = chosen.new_tensor([width, height, width, height])
            result = Instances((height, width))
            result.pred_boxes = Boxes(to_absolute_xyxy(chosen, scale))
            result.pred_boxes.clip((height, width))
            result.scores = scores[image]
            result.pred_classes = index[image] % num_classes
            detections.append(result)
        return detections
