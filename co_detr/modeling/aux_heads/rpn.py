"""The region proposal network of the Faster R-CNN head (Ren et al., Faster R-CNN, Sec. 3.1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from co_detr.ops.boxes import apply_deltas, box_deltas, has_area
from co_detr.ops.grouped_nms import grouped_nms

from ..losses import LossTerm
from ..sampling import draw_labelled, rows_at
from .anchors import PyramidAnchors, box_transform
from .dense import best_of_levels
from .max_iou import max_iou_match
from .truth import BACKGROUND, PaddedTruth


class RPN(nn.Module):
    """Class-agnostic anchors on every level: a 3x3 convolution, then objectness and box deltas.

    It differs from detectron2's RPN in what low-quality matching does (see `max_iou_match`) and in
    keeping the release's anchors.

    Args:
        in_channels: C of the pyramid.
        strides: of the pyramid's levels, fine to coarse.
        anchor_scale, scales_per_octave, aspect_ratios, pad_multiple: see `PyramidAnchors`.
        conv_channels: width of the 3x3 convolution; None for `in_channels`.
        delta_std: spread of the deltas (dx, dy, dw, dh): predictions are in this unit.
        positive_iou, negative_iou: an anchor whose best IoU reaches the first is positive, below
            the second negative, between them ignored.
        min_positive_iou: the best anchors of a box are positive from this IoU on.
        samples_per_image, positive_fraction: anchors drawn for the losses, and the largest share of
            positives among them.
        nms_threshold: IoU above which the lower-scored proposal of a level is dropped.
        pre_nms_topk: (training, inference) proposals kept per level before suppression.
        post_nms_topk: (training, inference) proposals kept per image.
        class_loss_weight, box_loss_weight: the owner of the RPN may scale both once more.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        anchor_scale: float = 4.0,
        scales_per_octave: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        pad_multiple: int = 1,
        conv_channels: int | None = None,
        delta_std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        min_positive_iou: float = 0.3,
        samples_per_image: int = 256,
        positive_fraction: float = 0.5,
        nms_threshold: float = 0.7,
        pre_nms_topk: tuple[int, int] = (4000, 1000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        class_loss_weight: float = 1.0,
        box_loss_weight: float = 1.0,
    ):
        super().__init__()
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.min_positive_iou = min_positive_iou
        self.samples_per_image = samples_per_image
        self.positive_fraction = positive_fraction
        self.nms_threshold = nms_threshold
        self.pre_nms_topk = tuple(pre_nms_topk)
        self.post_nms_topk = tuple(post_nms_topk)
        self.class_loss_weight = class_loss_weight
        self.box_loss_weight = box_loss_weight

        self.anchors = PyramidAnchors(
            strides=strides,
            scale=anchor_scale,
            scales_per_octave=scales_per_octave,
            aspect_ratios=aspect_ratios,
            pad_multiple=pad_multiple,
        )
        self.box_transform = box_transform(delta_std)

        channels = conv_channels or in_channels
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(channels, self.anchors.num_per_cell, 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * self.anchors.num_per_cell, 1)
        for conv in (self.conv, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(
        self,
        features: list[Tensor],
        image_sizes: list[tuple[int, int]],
        truth: PaddedTruth,
    ) -> tuple[list[Instances], dict[str, LossTerm]]:
        """Propose boxes and learn to; `truth` is that of the images, else as `AuxHead.forward`.

        Returns:
            Proposals as in `propose`, and the losses "loss_rpn_class" and "loss_rpn_box".
        """
        levels = self.anchors(features)
        logits, deltas = self.predict(features)
        anchors = Boxes(torch.cat(levels))
        valid = self.anchors.valid(features, image_sizes)
        losses = self.losses(anchors, valid, logits, deltas, truth)
        proposals = self.propose(
            levels, logits, deltas, image_sizes, self.pre_nms_topk[0], self.post_nms_topk[0]
        )
        return proposals, losses

    def inference(
        self, features: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Propose boxes as in `propose`, at most as many as inference is to have; nothing is filled
        up."""
        logits, deltas = self.predict(features)
        proposals = self.propose(
            self.anchors(features),
            logits,
            deltas,
            image_sizes,
            self.pre_nms_topk[1],
            self.post_nms_topk[1],
        )
        return [p[p.proposal_boxes.nonempty()] for p in proposals]

    def predict(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict objectness logits (N, A) and deltas (N, A, 4) for the anchors of all levels."""
        # 1x1 convolutions are linear layers, which the cells of all levels go through together
        cells = torch.cat(
            [self.conv(feature).permute(0, 2, 3, 1).flatten(1, 2) for feature in features], dim=1
        )
        cells = F.relu(cells, inplace=True)
        logits, deltas = (
            F.linear(cells, conv.weight.flatten(1), conv.bias).float()
            for conv in (self.objectness_logits, self.anchor_deltas)
        )
        return logits.flatten(1), deltas.view(len(deltas), -1, 4)

    def match(self, anchors: Tensor, valid: Tensor, truth: PaddedTruth) -> Tensor:
        """Match the anchors of a batch to its objects, as `max_iou_match` does."""
        return max_iou_match(
            anchors,
            valid,
            truth,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            min_positive_iou=self.min_positive_iou,
        )

    def losses(
        self,
        anchors: Boxes,
        valid: Tensor,
        logits: Tensor,
        deltas: Tensor,
        truth: PaddedTruth,
    ) -> dict[str, LossTerm]:
        """Compute cross entropy of the objectness and L1 of the deltas on sampled anchors.

        Both are divided by the number of sampled anchors, counting at least one positive and one
        negative per image.
        """
        matches = self.match(anchors.tensor, valid, truth)
        (positive, is_positive), (negative, is_negative) = draw_labelled(
            matches >= 0, matches == BACKGROUND, self.samples_per_image, self.positive_fraction
        )
        drawn = torch.cat([is_positive, is_negative], dim=1)
        wanted = torch.cat([is_positive, torch.zeros_like(is_negative)], dim=1).to(logits.dtype)
        class_loss = F.binary_cross_entropy_with_logits(
            logits.gather(1, torch.cat([positive, negative], dim=1)),
            wanted,
            weight=drawn.to(logits.dtype),
            reduction="sum",
        )

        _, boxes = truth.look_up(matches.gather(1, positive), num_classes=0)
        sources = anchors.tensor[positive]
        # What was not drawn is to stay where it is, which keeps its masked loss finite.
        targets = box_deltas(
            sources, boxes.where(is_positive[..., None], sources), self.box_transform.weights
        )
        predicted = rows_at(deltas, positive)
        box_loss = ((predicted - targets).abs() * is_positive[..., None]).sum()

        counts = torch.stack([is_positive.sum(dim=1), is_negative.sum(dim=1)])
        count = counts.clamp(min=1).sum()
        return {
            "loss_rpn_class": LossTerm(self.class_loss_weight * class_loss, count),
            "loss_rpn_box": LossTerm(self.box_loss_weight * box_loss, count),
        }

    @torch.no_grad()
    def propose(
        self,
        levels: list[Tensor],
        logits: Tensor,
        deltas: Tensor,
        image_sizes: list[tuple[int, int]],
        pre_nms_topk: int,
        post_nms_topk: int,
    ) -> list[Instances]:
        """Turn predictions into proposals, as many of each image.

        Args:
            levels: per level (A_l, 4) anchors.
            logits, deltas: (N, A), (N, A, 4), for the anchors of all levels.
            image_sizes: valid (height, width) per image.
            pre_nms_topk: most proposals per level before suppression, which is within the level.
            post_nms_topk: most proposals per image.

        Returns:
            Per image `proposal_boxes` (clipped to the image, with positive sides) and
            `objectness_logits`, by falling score, without gradient. Where there are fewer than the
            image could have, boxes (0, 0, 0, 0) of score -inf follow.
        """
        limits = torch.tensor([[w, h, w, h] for h, w in image_sizes]).to(deltas)[:, None]
        sizes = [len(level) for level in levels]
        scores, index = best_of_levels(logits[..., None], sizes, pre_nms_topk)
        counts = [min(pre_nms_topk, size) for size in sizes]
        chosen = rows_at(deltas, index)
        anchors = torch.cat(levels)[index]
        transform = self.box_transform
        boxes = apply_deltas(anchors, chosen, transform.weights, transform.scale_clamp)
        boxes = boxes.clamp(min=0).minimum(limits)

        kept = grouped_nms(boxes, scores, counts, self.nms_threshold)
        # Boxes without area overlap nothing, so dropping them after NMS changes no other's fate.
        kept &= has_area(boxes)
        scores = scores.masked_fill(~kept, -torch.inf)
        scores, order = scores.topk(min(post_nms_topk, scores.shape[1]), dim=1)
        kept = kept.gather(1, order)
        boxes = rows_at(boxes, order).masked_fill(~kept[..., None], 0)
        return [
            Instances((h, w), proposal_boxes=Boxes(b), objectness_logits=s)
            for (h, w), b, s in zip(image_sizes, boxes, scores)
        ]
