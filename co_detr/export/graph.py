"""The part of a detector that is exported: tensors in, tensors out, one path through the code.

Letters: N images, Q queries, K detections per image.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from co_detr.modeling.base_detector import CANVAS_GRAY
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.postprocess import TopKDetections
from co_detr.ops.boxes import to_absolute_xyxy
from co_detr.ops.soft_nms import NMS, SoftNMS

INPUTS = ("images", "sizes")
DETECTIONS = ("boxes", "scores", "labels")
RANKING = "proposals"


def exportable(model: nn.Module) -> CoDETR:
    """The model, which has to be of the kind that can be exported.

    Raises:
        TypeError: it is another.
    """
    if not isinstance(model, CoDETR):
        raise TypeError(f"a {type(model).__name__} cannot be exported, only a CoDETR")
    return model


class DetectionGraph(nn.Module):
    """From padded pictures to the detections of the matching queries.

    Shares its parts with the model, without those that only training has. Masks of padding are made
    by comparison: exporters lose what is written into a mask through a view.

    Args:
        model: detects boxes by its matching queries.

    Raises:
        TypeError, ValueError: the model is of another kind.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        model = exportable(model)
        if model.eval_branch != "matching":
            raise ValueError(
                f'eval_branch={model.eval_branch!r}: only detections of "matching" are exported'
            )
        postprocess = cast(TopKDetections, model.postprocess)
        suppression = postprocess.suppression
        if not isinstance(suppression, NMS | SoftNMS | None):
            raise ValueError(f"model.postprocess.suppression={suppression!r} cannot be exported")
        self.backbone, self.neck, self.encoder = model.backbone, model.neck, model.encoder
        self.proposals = model.proposals
        self.queries = model.query_sources["matching"]
        self.decoder = model.decoder
        self.pixel_mean, self.pixel_std = nn.Buffer(model.pixel_mean), nn.Buffer(model.pixel_std)
        self.mask_padding, self.canvas = model.mask_padding, model.canvas
        self.suppression = suppression
        self.max_detections = postprocess.max_detections
        self.outputs = DETECTIONS if self.proposals is None else (*DETECTIONS, RANKING)
        self.eval()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: (N, 3, H, W) uint8, each picture at the upper left; whatever is beyond its size
                does not matter.
            sizes: (N, 2) int64, height and width of the pictures, from 1 to H and W.

        Returns:
            boxes (N, K, 4) absolute XYXY in pixels of the input, clipped to the pictures, scores
            (N, K), falling, and labels (N, K) int64. With NMS in the graph, what it dropped has
            score 0 and comes last. For soft-NMS, which it does not hold, K is as many as soft-NMS
            looks at. Of two-stage models also (N, Q) int64, the encoder token that each query
            began as: which of two proposals of equal score comes first is a matter of rounding.
        """
        height, width = images.shape[-2:]
        outside = padding_by_comparison(sizes, height, width)
        padding = outside if self.mask_padding else torch.zeros_like(outside)
        memory = self.encoder(self.neck(self.backbone(self.normalize(images, outside))), padding)
        proposals = self.proposals(memory) if self.proposals is not None else None
        groups = self.queries(memory, proposals, None, {})
        predicted = self.decoder(groups[:1], memory)["matching"]
        # what boxes are fractions of, as (w, h, w, h)
        own = sizes.flip(1).repeat(1, 2)[:, None].float()
        frame = own if self.mask_padding else own.new_tensor([width, height, width, height])
        scores, labels, boxes = self.best(predicted.logits[-1].float(), predicted.boxes[-1].float())
        boxes = to_absolute_xyxy(boxes, frame).clamp(min=0).minimum(frame)
        if isinstance(self.suppression, NMS):
            num_classes = predicted.logits.shape[-1]
            keep = keep_by_nms(boxes, scores, labels, num_classes, self.suppression.iou_threshold)
            scores, order = (scores * keep).topk(self.count(scores.shape[1]), dim=1)
            labels, boxes = labels.gather(1, order), _rows(boxes, order)
        detections = boxes.minimum(own), scores, labels
        return detections if proposals is None else (*detections, proposals.index)

    def normalize(self, images: Tensor, outside: Tensor) -> Tensor:
        """As `Detector.preprocess`: padding is zero, or on a canvas the gray of training."""
        images, outside = images.float(), outside[:, None]
        if self.canvas is not None:
            images = images.masked_fill(outside, CANVAS_GRAY)
        images = ((images - self.pixel_mean) / self.pixel_std).to(self.pixel_mean.dtype)
        return images if self.canvas is not None else images.masked_fill(outside, 0.0)

    def best(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best (query, class) pairs, as `TopKDetections`: scores, labels and normalized boxes;
        all Q of them where duplicates are suppressed later."""
        Q, num_classes = logits.shape[1:]
        count = Q if self.suppression is not None else self.count(Q * num_classes)
        scores, index = logits.sigmoid().flatten(1).topk(count, dim=1)
        queries = index.div(num_classes, rounding_mode="floor")
        return scores, index - queries * num_classes, _rows(boxes, queries)

    def count(self, candidates: int) -> int:
        return min(self.max_detections, candidates)


def padding_by_comparison(sizes: Tensor, height: int, width: int) -> Tensor:
    """(N, height, width) bool, True outside each picture's size (N, 2)."""
    y = torch.arange(height, device=sizes.device)[:, None]
    x = torch.arange(width, device=sizes.device)
    return (y >= sizes[:, 0, None, None]) | (x >= sizes[:, 1, None, None])


def keep_by_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou_threshold: float
) -> Tensor:
    """What NMS class by class keeps, (N, K) as numbers 0 and 1.

    All images and classes at once, their boxes moved apart: on a grid and not in a row, which would
    need larger coordinates, rounded more coarsely.
    """
    N, K = scores.shape
    columns = int(num_classes**0.5) + 1
    image = torch.arange(N, device=labels.device)[:, None]
    row = labels.div(columns, rounding_mode="floor")
    place = torch.stack([labels - row * columns, row + image * columns], dim=-1).repeat(1, 1, 2)
    apart = boxes + place * (boxes.max() + 1)
    kept = nms(apart.flatten(0, 1), scores.flatten(), iou_threshold)
    return torch.zeros_like(scores).flatten().index_fill(0, kept, 1.0).view(N, K)


def _rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (N, Q, 4) at indices (N, K): (N, K, 4)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
