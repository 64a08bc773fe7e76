"""Masks of the decoder's detections, refined over stages, and a head that judges them.

The released ViT-L "instance" models carry such a head: RefineMask (Zhang et al., CVPR 2021) with
the IoU head of Mask Scoring R-CNN (Huang et al., CVPR 2019). Their names and shapes fix the layers:
which convolutions there are, how wide, what is concatenated before them (2 C + 1 channels), that
the last mask is class-agnostic, that the norms are LayerNorms over channels, and that the IoU head
halves its map once. They also show that the semantic branch is not supervised on its own: it has no
predictor, so there is no semantic loss.

What they leave open follows the two papers. No reference numbers were at hand to check it:
- boxes are pooled from the encoder's maps as the Faster R-CNN head does; the semantic branch reads
  the finest map;
- ReLU behind every convolution; the dilated branches are added up; bilinear upsampling in between
  stages and before the last mask;
- the IoU head sees the refined mask, max-pooled to its resolution;
- in training, RoIs are the ground truth and predicted boxes that overlap it; all loss weights.

Letters: N images, R boxes of all images, C channels, S side of a mask.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from co_detr.ops.boxes import to_absolute_xyxy

from .aux_heads.roi_pooler import PyramidPooler
from .aux_heads.truth import PaddedTruth
from .losses import LossTerm
from .masks import cut_masks, mask_areas
from .refine_mask import MaskIoUHead, RefineMaskHead, boundary, double, replace_along_boundary
from .sampling import random_subset, rows_at


class InstanceMask(nn.Module):
    """Adds masks to the decoder's detections, and learns to.

    It is no auxiliary head: boxes and classes are those of the matching queries, and it serves
    inference too.

    Args:
        mask_head: predicts masks of growing resolution.
        iou_head: predicts their quality, which multiplies into `mask_scores`; may be None.
        strides: of the maps that boxes are pooled from, fine to coarse; the encoder's levels.
        finest_scale: decides from which level a box is pooled, as in `BoxHead`.
        positive_iou: a predicted box that overlaps an object so much is trained on.
        boxes_per_image: trained on, drawn from those and the ground truth.
        mask_weights: of the masks' losses, coarse to fine.
        num_whole: so many of the coarsest masks are supervised on all pixels, the finer ones along
            boundaries only.
        iou_weight: of the IoU head's loss.
        boundary_width: of both the object's and the predicted boundary in training, in pixels of a
            mask to either side.
        inference_boundary_width: where a finer mask replaces the coarser one at inference.
        chunk_size: detections to compute masks for at once, which bounds memory.
    """

    def __init__(
        self,
        *,
        mask_head: RefineMaskHead,
        iou_head: MaskIoUHead | None = None,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        finest_scale: float = 56,
        positive_iou: float = 0.5,
        boxes_per_image: int = 100,
        mask_weights: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        num_whole: int = 2,
        iou_weight: float = 1.0,
        boundary_width: int = 2,
        inference_boundary_width: int = 1,
        chunk_size: int = 100,
    ):
        super().__init__()
        if len(mask_weights) != len(mask_head.predictors):
            raise ValueError(
                f"{len(mask_weights)} mask_weights for {len(mask_head.predictors)} masks: the head "
                "has num_stages + 1 of them"
            )
        self.mask_head = mask_head
        self.iou_head = iou_head
        self.num_levels = len(strides)
        self.pooler = PyramidPooler(
            output_size=mask_head.resolution,
            scales=[1 / stride for stride in strides],
            canonical_box_size=finest_scale,
            canonical_level=int(math.log2(strides[0])),
        )
        self.positive_iou = positive_iou
        self.boxes_per_image = boxes_per_image
        self.mask_weights = tuple(mask_weights)
        self.num_whole = num_whole
        self.iou_weight = iou_weight
        self.boundary_width = boundary_width
        self.inference_boundary_width = inference_boundary_width
        self.chunk_size = chunk_size

    def forward(
        self,
        features: list[Tensor],
        boxes: Tensor,
        image_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> dict[str, LossTerm]:
        """Losses of the masks, and of their predicted IoU.

        Args:
            features: the encoder's maps, (N, C, H_l, W_l), fine to coarse.
            boxes: (N, Q, 4) normalized cxcywh, the last layer's prediction of the matching queries.
            image_sizes: valid (height, width) of each image.
            gt_instances: `gt_boxes` (absolute XYXY), `gt_classes` and, unless there are no objects,
                `gt_masks`.

        Raises:
            ValueError: an image has objects but no masks.
        """
        samples = self.sample(boxes, image_sizes, gt_instances)
        rois = [s.proposal_boxes for s in samples]
        index = [s.gt_index for s in samples]
        classes = torch.cat([s.gt_classes for s in samples])

        pooled = self.pooler(features[: self.num_levels], rois)
        logits = self.mask_head(pooled, self.mask_head.semantic_maps(features[0]), rois, classes)
        targets = cut_masks(gt_instances, index, rois, logits[-1].shape[-1])
        losses = self.mask_losses(logits, targets)
        if self.iou_head is not None:
            probability = self.combine(logits).sigmoid()
            predicted = self.iou_head(pooled, probability, classes)
            box_areas = torch.cat([r.area() for r in rois])
            areas = mask_areas(gt_instances, index)
            truth = mask_iou(probability >= 0.5, targets > 0.5, box_areas, areas)
            losses["loss_iou"] = self.iou_loss(predicted, truth)
        return {f"instance_mask/{name}": term for name, term in losses.items()}

    @torch.no_grad()
    def sample(
        self, boxes: Tensor, image_sizes: list[tuple[int, int]], gt_instances: list[Instances]
    ) -> list[Instances]:
        """Draw the boxes to train on; the host waits once, for their numbers.

        Args:
            boxes: (N, Q, 4) normalized cxcywh.

        Returns:
            per image `proposal_boxes` (absolute XYXY, clipped), `gt_classes` and `gt_index` (the
            position of the object in the image's ground truth) of at most `boxes_per_image` boxes.
        """
        scale = boxes.new_tensor([(w, h, w, h) for h, w in image_sizes]).float()[:, None]
        predicted = to_absolute_xyxy(boxes.float(), scale).clamp(min=0).minimum(scale)
        truth = PaddedTruth.from_instances(gt_instances)
        candidates = torch.cat([truth.boxes, predicted], dim=1)
        matches = truth.match(candidates, self.positive_iou)
        chosen, drawn = random_subset(matches >= 0, self.boxes_per_image)
        index = matches.gather(1, chosen)
        classes, _ = truth.look_up(index, num_classes=-1)
        candidates = rows_at(candidates, chosen)
        return [
            Instances((h, w), proposal_boxes=Boxes(b[:n]), gt_classes=c[:n], gt_index=i[:n])
            for (h, w), b, c, i, n in zip(
                image_sizes, candidates, classes, index, drawn.sum(dim=1).tolist()
            )
        ]

    def mask_losses(self, logits: list[Tensor], targets: Tensor) -> dict[str, LossTerm]:
        """Binary cross entropy, of the finer masks along boundaries only (RefineMask, Sec. 3.3).

        Where the coarser mask is far from its own boundary and from the object's, a finer one has
        nothing to add.

        Args:
            logits: per resolution (R, S, S), coarse to fine.
            targets: (R, S, S) 0 or 1, for the finest.
        """
        losses: dict[str, LossTerm] = {}
        before, coarser = None, None  # mask and target of the stage before
        for i, (mask, weight) in enumerate(zip(logits, self.mask_weights)):
            factor = targets.shape[-1] // mask.shape[-1]
            target = F.avg_pool2d(targets[:, None], factor)[:, 0] >= 0.5
            loss = F.binary_cross_entropy_with_logits(mask, target.float(), reduction="none")
            if i < self.num_whole:
                term = LossTerm(weight * loss.mean(dim=(1, 2)).sum(), len(mask))
                before = mask.detach()
            else:
                assert before is not None and coarser is not None  # the first are whole
                width = self.boundary_width
                region = boundary(before >= 0, width) | boundary(coarser, width)
                region = double(region)
                term = LossTerm(weight * (loss * region).sum(), region.sum())
                before = replace_along_boundary(before, mask.detach(), width)
            losses[f"loss_mask_{i}"] = term
            coarser = target
        return losses

    def combine(self, logits: list[Tensor]) -> Tensor:
        """The final mask, (R, S, S) logits of the finest resolution: the last mask supervised on
        all pixels, upsampled and replaced along its boundary by the next, and so on."""
        mask = logits[self.num_whole - 1]
        for finer in logits[self.num_whole :]:
            mask = replace_along_boundary(mask, finer, self.inference_boundary_width)
        return mask

    def iou_loss(self, predicted: Tensor, truth: Tensor) -> LossTerm:
        """Half the squared error of IoUs (R,), where the masks overlap at all."""
        overlapping = truth > 0
        total = ((predicted - truth).square() / 2 * overlapping).sum()
        return LossTerm(self.iou_weight * total, overlapping.sum())

    def inference(self, features: list[Tensor], detections: list[Instances]) -> list[Instances]:
        """Add masks to detections.

        Args:
            features: the encoder's maps, (N, C, H_l, W_l), fine to coarse.
            detections: per image `pred_boxes` (absolute XYXY), `scores`, `pred_classes`.

        Returns:
            the same with `pred_masks` (n, 1, S, S), probabilities within the box, as
            `detector_postprocess` takes them; and, with an IoU head, `mask_scores`, the scores
            times the predicted IoU, by which masks are better ranked than by `scores`.
        """
        semantic = self.mask_head.semantic_maps(features[0])
        results = []
        for i, found in enumerate(detections):
            levels = [level[i : i + 1] for level in features[: self.num_levels]]
            local = [level[i : i + 1] for level in semantic]
            # Also of no detections there is one chunk, so that the fields are there.
            chunks = [
                self._add_masks(levels, local, found[start : start + self.chunk_size])
                for start in range(0, max(len(found), 1), self.chunk_size)
            ]
            results.append(Instances.cat(chunks))
        return results

    def _add_masks(
        self, levels: list[Tensor], semantic: list[Tensor], found: Instances
    ) -> Instances:
        boxes, classes = [found.pred_boxes], found.pred_classes
        pooled = self.pooler(levels, boxes)
        masks = self.combine(self.mask_head(pooled, semantic, boxes, classes)).sigmoid()
        found.pred_masks = masks[:, None]
        if self.iou_head is not None:
            quality = self.iou_head(pooled, masks, classes).clamp(0, 1)
            found.mask_scores = found.scores * quality
        return found


@torch.no_grad()
def mask_iou(predicted: Tensor, target: Tensor, box_areas: Tensor, areas: Tensor) -> Tensor:
    """IoU of masks with whole objects, also with what of the object is outside the box.

    Args:
        predicted, target: (R, S, S) bool, within the box.
        box_areas: (R,) in square pixels of the image.
        areas: (R,) of the objects, likewise.

    Returns:
        (R,) in [0, 1].
    """
    covered = predicted.float().mean(dim=(1, 2)) * box_areas
    common = (predicted & target).float().mean(dim=(1, 2)) * box_areas
    # Rounding to mask pixels must not make the part larger than the whole.
    union = covered + torch.maximum(areas, common) - common
    return common / union.clamp(min=1e-6)
