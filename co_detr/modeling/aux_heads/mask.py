"""The mask branch that turns the Faster R-CNN head into Mask R-CNN (He et al., 2017, Sec. 3)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..losses import LossTerm
from ..masks import class_logits, cut_masks
from .roi_pooler import PyramidPooler


class MaskHead(nn.Module):
    """RoIAlign on the pyramid, 3x3 convolutions, one upsampling, one mask per class.

    Args:
        in_channels: C of the pyramid.
        num_classes: foreground classes.
        strides: of the levels that are pooled from, fine to coarse; these are the first ones of the
            pyramid, each twice the one before.
        finest_scale: decides from which level a box is pooled, as in `BoxHead`. The names of the
            released weights do not tell it; it is taken to be that of the boxes.
        resolution: bins per axis; masks are twice as fine.
        num_convs, conv_channels: 3x3 convolutions, and their width.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        finest_scale: float = 112,
        resolution: int = 14,
        num_convs: int = 4,
        conv_channels: int = 256,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.num_levels = len(strides)
        self.mask_size = 2 * resolution
        self.pooler = PyramidPooler(
            output_size=resolution,
            scales=[1 / stride for stride in strides],
            canonical_box_size=finest_scale,
            canonical_level=int(math.log2(strides[0])),
        )
        self.convs = nn.Sequential(
            *(
                Conv2d(
                    in_channels if i == 0 else conv_channels,
                    conv_channels,
                    3,
                    padding=1,
                    activation=F.relu,
                )
                for i in range(num_convs)
            )
        )
        width = conv_channels if num_convs else in_channels
        self.upsample = nn.ConvTranspose2d(width, conv_channels, 2, stride=2)
        self.predictor = nn.Conv2d(conv_channels, num_classes, 1)
        for layer in (*self.convs, self.upsample, self.predictor):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)

    def forward(self, features: list[Tensor], boxes: list[Boxes], classes: Tensor) -> Tensor:
        """Predict the mask of each box's class.

        Args:
            features: the pyramid; coarser levels than are pooled from may follow.
            boxes: per image, absolute XYXY; R in total.
            classes: (R,) 0..num_classes-1.

        Returns:
            logits (R, mask_size, mask_size) over the boxes, float32.
        """
        pooled = self.pooler(features[: self.num_levels], boxes)
        hidden = F.relu(self.upsample(self.convs(pooled)))
        return class_logits(self.predictor, hidden, classes)

    def loss(
        self, features: list[Tensor], samples: list[Instances], gt_instances: list[Instances]
    ) -> LossTerm:
        """Binary cross entropy of the positive samples' masks, a mean over pixels and samples.

        Args:
            features: the pyramid.
            samples: `proposal_boxes`, `gt_classes` (background = num_classes, ignored = -1) and
                `gt_index`, the position of the matched object in its image's ground truth.
            gt_instances: with `gt_masks`.

        Raises:
            ValueError: an image has objects but no masks.
        """
        positive = self._positives(samples)
        boxes = [s.proposal_boxes for s in positive]
        logits = self(features, boxes, torch.cat([s.gt_classes for s in positive]))
        index = [s.gt_index for s in positive]
        targets = cut_masks(gt_instances, index, boxes, self.mask_size)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return LossTerm(loss.mean(dim=(1, 2)).sum(), len(logits))

    def _positives(self, samples: list[Instances]) -> list[Instances]:
        """Pick the positive samples; the host waits once, for the numbers of all images."""
        positive = [(s.gt_classes >= 0) & (s.gt_classes < self.num_classes) for s in samples]
        counts = torch.stack([p.sum() for p in positive]).tolist()
        # In their order, in front of the others.
        order = [p.sort(descending=True, stable=True).indices for p in positive]
        return [s[o[:count]] for s, o, count in zip(samples, order, counts)]

    def inference(self, features: list[Tensor], detections: list[Instances]) -> list[Instances]:
        """Add `pred_masks` (n, 1, mask_size, mask_size) to detections: probabilities within the
        box, as `detector_postprocess` takes them."""
        boxes = [found.pred_boxes for found in detections]
        logits = self(features, boxes, torch.cat([found.pred_classes for found in detections]))
        for found, masks in zip(detections, logits.sigmoid().split([len(b) for b in boxes])):
            found.pred_masks = masks[:, None]
        return detections
