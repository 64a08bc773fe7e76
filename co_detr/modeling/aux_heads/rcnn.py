"""The Faster R-CNN auxiliary head: an RPN and a RoI head (Ren et al.; Lin et al., FPN).

With a mask head it is Mask R-CNN (He et al.).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from co_detr.ops.boxes import apply_deltas, giou_loss, has_area
from co_detr.ops.soft_nms import NMS, Suppression

from ..losses import LossTerm
from ..sampling import ordered_samples, padded, rows_at
from .anchors import box_transform
from .base import AuxHead, AuxOutput, keep_best_detections
from .mask import MaskHead
from .roi_pooler import PyramidPooler
from .rpn import RPN
from .truth import PaddedTruth


class BoxHead(nn.Module):
    """RoIAlign on the pyramid, then convolutions and linear layers, then class and box deltas.

    Args:
        in_channels: C of the pyramid.
        num_classes: foreground classes.
        strides: of the levels that are pooled from, fine to coarse; these are the first ones of the
            pyramid, each twice the one before.
        finest_scale: boxes of less than twice this size, sqrt(area) in pixels, are pooled from the
            first level, up to twice as large ones from the second, and so on.
        resolution: bins per axis.
        num_convs, conv_channels, norm: 3x3 convolutions before the linear layers, their width (None
            for `in_channels`) and norm as for `detectron2.layers.get_norm`.
        num_fcs, fc_dim: linear layers and their width.
        class_agnostic_boxes: one box per RoI instead of one per class.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        finest_scale: float = 112,
        resolution: int = 7,
        num_convs: int = 0,
        conv_channels: int | None = None,
        norm: str | Callable = "GN",
        num_fcs: int = 2,
        fc_dim: int = 1024,
        class_agnostic_boxes: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.class_agnostic_boxes = class_agnostic_boxes
        self.num_box_classes = 1 if class_agnostic_boxes else num_classes
        self.num_levels = len(strides)
        self.pooler = PyramidPooler(
            output_size=resolution,
            scales=[1 / stride for stride in strides],
            # Level floor(log2(size / finest_scale)): a box of this size is on the first level.
            canonical_box_size=finest_scale,
            canonical_level=int(math.log2(strides[0])),
        )

        channels = conv_channels or in_channels
        self.convs = nn.Sequential()
        for i in range(num_convs):
            conv = Conv2d(
                in_channels if i == 0 else channels,
                channels,
                3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, channels),
                activation=F.relu,
            )
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.convs.append(conv)
        width = (channels if num_convs else in_channels) * resolution**2
        self.fcs = nn.ModuleList()
        for _ in range(num_fcs):
            fc = nn.Linear(width, fc_dim)
            nn.init.xavier_uniform_(fc.weight)
            nn.init.zeros_(fc.bias)
            self.fcs.append(fc)
            width = fc_dim
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * self.num_box_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> tuple[Tensor, Tensor, Tensor]:
        """Classify and refine boxes.

        Args:
            features: the pyramid; coarser levels than are pooled from may follow.
            boxes: per image, absolute XYXY; R in total.

        Returns:
            logits (R, num_classes + 1), background last; deltas (R, num_box_classes, 4); and the
            pooled features averaged over the bins (R, C). Float32.
        """
        pooled = self.pooler(features[: self.num_levels], boxes)
        hidden = self.convs(pooled).flatten(1)
        for fc in self.fcs:
            hidden = F.relu(fc(hidden))
        deltas = self.bbox_pred(hidden).view(-1, self.num_box_classes, 4)
        return self.cls_score(hidden).float(), deltas.float(), pooled.mean(dim=(2, 3)).float()


class FasterRCNNHead(AuxHead):
    """RPN and RoI head as one auxiliary head.

    The ground truth joins the proposals; a box is a positive sample from an IoU of `positive_iou`
    on and negative below. Softmax cross entropy on all samples, GIoU on the decoded boxes of the
    positive ones, both divided by the number of samples.

    Args:
        rpn: proposes boxes on all levels of the pyramid.
        box_head: classifies and refines them; has the number of classes.
        mask_head: predicts the masks of positive samples, and of detections; None for boxes alone.
            Then ground truth needs `gt_masks`.
        delta_std: spread of the deltas (dx, dy, dw, dh): predictions are in this unit.
        positive_iou: see above.
        samples_per_image, positive_fraction: RoIs drawn, and the largest share of positives.
        loss_weight: factor of all losses, those of the RPN included, see `aux_loss_weight`.
        class_loss_weight, box_loss_weight, mask_loss_weight: of the RoI head's losses, times
            `loss_weight`.
        score_threshold: detections need a higher class score.
        nms_threshold: IoU above which the lower-scored box of a class is dropped.
        suppression: replaces the NMS of `nms_threshold`, for example by `SoftNMS`.
        detections_per_image: most detections.
        sample_features: whether samples carry `features`, the RoI feature averaged over its bins.
            Queries built from coordinates alone (Co-DINO) do not need them.
    """

    def __init__(
        self,
        *,
        rpn: RPN,
        box_head: BoxHead,
        mask_head: MaskHead | None = None,
        delta_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2),
        positive_iou: float = 0.5,
        samples_per_image: int = 512,
        positive_fraction: float = 0.25,
        loss_weight: float = 12.0,
        class_loss_weight: float = 1.0,
        box_loss_weight: float = 10.0,
        mask_loss_weight: float = 1.0,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.5,
        suppression: Suppression | None = None,
        detections_per_image: int = 100,
        sample_features: bool = True,
    ):
        super().__init__()
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.num_classes = box_head.num_classes
        self.box_transform = box_transform(delta_std)
        self.positive_iou = positive_iou
        self.samples_per_image = samples_per_image
        self.positive_fraction = positive_fraction
        self.loss_weight = loss_weight
        self.class_loss_weight = class_loss_weight
        self.box_loss_weight = box_loss_weight
        self.mask_loss_weight = mask_loss_weight
        self.score_threshold = score_threshold
        self.suppression = suppression if suppression is not None else NMS(nms_threshold)
        self.detections_per_image = detections_per_image
        self.sample_features = sample_features

    def forward(
        self,
        features: list[Tensor],
        image_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> AuxOutput:
        truth = PaddedTruth.from_instances(gt_instances)
        proposals, losses = self.rpn(features, image_sizes, truth)
        samples = self.sample(proposals, truth)
        boxes = [sample.proposal_boxes for sample in samples]
        logits, deltas, pooled = self.box_head(features, boxes)
        losses |= self.losses(logits, deltas, samples)
        if self.mask_head is not None:
            mask = self.mask_head.loss(features, samples, gt_instances)
            losses["loss_mask"] = LossTerm(self.mask_loss_weight * mask.total, mask.count)
        if self.sample_features:
            for sample, feature in zip(samples, pooled.split([len(b) for b in boxes])):
                sample.features = feature
        return AuxOutput(
            {n: replace(t, total=self.loss_weight * t.total) for n, t in losses.items()},
            samples,
        )

    @torch.no_grad()
    def sample(self, proposals: list[Instances], truth: PaddedTruth) -> list[Instances]:
        """Label the ground truth and the proposals of each image and draw samples from them.

        Ground truth is a perfect proposal: it helps at the start, when the RPN has none.

        Args:
            proposals: per image `proposal_boxes`; those without area are padding.
            truth: the objects.

        Returns:
            Samples as in `AuxOutput`, without features: positives, then negatives, each in the
            order of (ground truth, proposals). `gt_index` is the position of a positive sample's
            object in the ground truth of its image; -1 where background. All images have the same
            number, filled up with ignored samples at (0, 0, 0, 0).
        """
        boxes = padded([p.proposal_boxes.tensor for p in proposals])
        boxes = torch.cat([truth.boxes, boxes], dim=1)  # (N, m, 4)
        matches = truth.match(boxes, self.positive_iou)
        index, drawn = ordered_samples(
            matches >= 0,
            (matches < 0) & has_area(boxes),
            self.samples_per_image,
            self.positive_fraction,
        )
        matches = matches.gather(1, index).masked_fill(~drawn, -1)
        labels, targets = truth.look_up(matches, self.num_classes)
        labels = labels.masked_fill(~drawn, -1)
        boxes = rows_at(boxes, index) * drawn[..., None]
        return [
            Instances(
                p.image_size,
                proposal_boxes=Boxes(b),
                gt_classes=c,
                gt_boxes=Boxes(t),
                gt_index=m,
            )
            for p, b, c, t, m in zip(proposals, boxes, labels, targets, matches)
        ]

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Turn deltas (..., 4) for boxes that broadcast against them into absolute XYXY boxes."""
        transform = self.box_transform
        return apply_deltas(boxes, deltas, transform.weights, transform.scale_clamp)

    def losses(
        self, logits: Tensor, deltas: Tensor, samples: list[Instances]
    ) -> dict[str, LossTerm]:
        """Compute "loss_class" and "loss_box", arguments as `BoxHead` returns them."""
        labels = torch.cat([sample.gt_classes for sample in samples])
        boxes, truth = (
            torch.cat([sample.get(name).tensor for sample in samples])
            for name in ("proposal_boxes", "gt_boxes")
        )
        positive = (labels >= 0) & (labels < self.num_classes)
        box_class = labels.where(positive, 0) if deltas.shape[1] > 1 else torch.zeros_like(labels)
        deltas = deltas.gather(1, box_class[:, None, None].expand(-1, 1, 4)).squeeze(1)
        predicted = self.decode(deltas, boxes)
        class_loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=-1)
        box_loss = giou_loss(predicted, truth).where(positive, 0.0).sum()
        count = (labels >= 0).sum()
        return {
            "loss_class": LossTerm(self.class_loss_weight * class_loss, count),
            "loss_box": LossTerm(self.box_loss_weight * box_loss, count),
        }

    def inference(
        self, features: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        proposals = [p.proposal_boxes for p in self.rpn.inference(features, image_sizes)]
        logits, deltas, _ = self.box_head(features, proposals)
        scores = logits.softmax(dim=1)[:, :-1]
        boxes = self.decode(deltas, Boxes.cat(proposals).tensor[:, None])
        boxes = boxes.expand(-1, self.num_classes, -1)

        detections = []
        counts = [len(p) for p in proposals]
        for (height, width), s, b in zip(image_sizes, scores.split(counts), boxes.split(counts)):
            roi, classes = (s > self.score_threshold).nonzero(as_tuple=True)
            detections.append(
                keep_best_detections(
                    clip_boxes_to_image(b[roi, classes], (height, width)),
                    s[roi, classes],
                    classes,
                    (height, width),
                    suppression=self.suppression,
                    limit=self.detections_per_image,
                )
            )
        if self.mask_head is not None:
            detections = self.mask_head.inference(features, detections)
        return detections
