"""RefineMask (Zhang et al., CVPR 2021), and the IoU head of Mask Scoring R-CNN (Huang et al., CVPR
2019): the two heads of `InstanceMask`, which says what is known of the released ones.

Letters: N images, R boxes of all images, C channels, S side of a mask.
"""

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.structures import Boxes
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import roi_align

from .masks import class_logits


class RefinementStage(nn.Module):
    """One refinement: mask and features in, features of half the width and twice the size out
    (RefineMask, Sec. 3.2, the semantic fusion module).

    Args:
        in_channels: C of the features that come in.
        semantic_channels: of the semantic map.
        resolution: side of the incoming features.
        dilations: of the parallel 3x3 convolutions.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        semantic_channels: int,
        resolution: int,
        dilations: Sequence[int] = (1, 3, 5),
    ):
        super().__init__()
        self.resolution = resolution
        self.semantic_in = nn.Conv2d(semantic_channels, in_channels, 1)
        self.reduce = nn.Conv2d(2 * in_channels + 1, in_channels, 1)
        self.dilated = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, 3, padding=d, dilation=d) for d in dilations
        )
        self.merge = nn.Conv2d(in_channels, in_channels, 1)
        self.out = nn.Conv2d(in_channels, in_channels // 2 - 1, 1)  # the mask joins again

    def forward(self, features: Tensor, logits: Tensor, semantic: Tensor) -> Tensor:
        """Refine.

        Args:
            features: (R, C, S, S).
            logits: (R, S, S), the mask predicted from them.
            semantic: (R, C, S, S), the pooled output of `semantic_in`.

        Returns:
            (R, C / 2, 2 S, 2 S).
        """
        mask = logits.sigmoid()[:, None].to(features)
        fused = F.relu(self.reduce(torch.cat([features, semantic.to(features), mask], dim=1)))
        branches = torch.stack([F.relu(conv(fused)) for conv in self.dilated]).sum(dim=0)
        refined = F.relu(self.out(F.relu(self.merge(branches))))
        return _upsample(torch.cat([refined, mask.to(refined)], dim=1))


class RefineMaskHead(nn.Module):
    """Masks of growing resolution, each refining the one before (RefineMask, Sec. 3.1).

    Args:
        in_channels: C of the maps.
        num_classes: foreground classes.
        semantic_stride: of the map that the semantic branch reads, the finest.
        resolution: side of the first mask; every stage doubles it.
        num_stages: refinements; there is one mask more.
        num_instance_convs, num_semantic_convs: 3x3 convolutions before the stages.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        num_classes: int,
        semantic_stride: int = 4,
        resolution: int = 14,
        num_stages: int = 3,
        num_instance_convs: int = 1,
        num_semantic_convs: int = 2,
    ):
        super().__init__()
        self.resolution = resolution
        self.semantic_stride = semantic_stride
        self.instance_convs = nn.Sequential(
            *(_conv_norm_relu(in_channels, in_channels) for _ in range(num_instance_convs))
        )
        self.semantic_convs = nn.Sequential(
            *(_conv_norm_relu(in_channels, in_channels) for _ in range(num_semantic_convs))
        )
        widths = [in_channels // 2**i for i in range(num_stages + 1)]
        stages = [
            RefinementStage(
                in_channels=width, semantic_channels=in_channels, resolution=resolution * 2**i
            )
            for i, width in enumerate(widths[:-1])
        ]
        predictors = [nn.Conv2d(width, num_classes, 1) for width in widths[:-1]]
        predictors.append(nn.Conv2d(widths[-1], 1, 1))
        for stage in stages:
            for layer in stage.modules():
                if isinstance(layer, nn.Conv2d):
                    _init_conv(layer)
        for predictor in predictors:
            nn.init.normal_(predictor.weight, std=0.001)
            assert predictor.bias is not None
            nn.init.zeros_(predictor.bias)
        self.stages = nn.ModuleList(stages)
        self.predictors = nn.ModuleList(predictors)

    def semantic_maps(self, finest: Tensor) -> list[Tensor]:
        """What each stage pools from: (N, C, H, W) -> per stage (N, C_i, H, W)."""
        semantic = self.semantic_convs(finest)
        return [F.relu(stage.semantic_in(semantic)) for stage in self._stages()]

    def forward(
        self, pooled: Tensor, semantic_maps: list[Tensor], boxes: list[Boxes], classes: Tensor
    ) -> list[Tensor]:
        """Predict the masks of boxes.

        Args:
            pooled: (R, C, resolution, resolution).
            semantic_maps: of the N images, from `semantic_maps`.
            boxes: per image, absolute XYXY.
            classes: (R,) 0..num_classes-1.

        Returns:
            per resolution, coarse to fine, logits (R, S, S) over the boxes, float32.
        """
        features = self.instance_convs(pooled)
        corners = [b.tensor for b in boxes]
        masks = []
        *whole, last = cast(Iterable[nn.Conv2d], self.predictors)
        for stage, layer, semantic in zip(self._stages(), whole, semantic_maps):
            masks.append(class_logits(layer, features, classes))
            # `roi_align` itself, for the gradient's sake also where there are no boxes at all
            local = roi_align(
                semantic.float(),
                corners,
                stage.resolution,
                1 / self.semantic_stride,
                aligned=True,
            )
            features = stage(features, masks[-1], local)
        return [*masks, class_logits(last, features, classes)]

    def _stages(self) -> Iterable[RefinementStage]:
        return cast(Iterable[RefinementStage], self.stages)


class MaskIoUHead(nn.Module):
    """How well a predicted mask fits its object (Mask Scoring R-CNN, Sec. 3.2).

    Args:
        in_channels: C of the maps.
        num_classes: foreground classes.
        resolution: side of the pooled features.
        num_convs, conv_channels: 3x3 convolutions, of which the last one halves the map.
        num_fcs, fc_dim: linear layers.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        num_classes: int,
        resolution: int = 14,
        num_convs: int = 2,
        conv_channels: int = 256,
        num_fcs: int = 1,
        fc_dim: int = 1024,
    ):
        super().__init__()
        self.convs = nn.Sequential(
            *(
                _conv_norm_relu(
                    in_channels + 1 if i == 0 else conv_channels,
                    conv_channels,
                    stride=2 if i == num_convs - 1 else 1,
                )
                for i in range(num_convs)
            )
        )
        width = conv_channels * math.ceil(resolution / 2) ** 2
        fcs = [nn.Linear(width if i == 0 else fc_dim, fc_dim) for i in range(num_fcs)]
        self.fcs = nn.ModuleList(fcs)
        self.predictor = nn.Linear(fc_dim, num_classes)
        for fc in fcs:
            nn.init.kaiming_uniform_(fc.weight, a=1)
            nn.init.zeros_(fc.bias)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pooled: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        """Predict IoUs (R,), float32, not confined to [0, 1].

        Args:
            pooled: (R, C, resolution, resolution).
            masks: (R, S, S) probabilities within the box, S a multiple of the resolution.
            classes: (R,) 0..num_classes-1.
        """
        factor = masks.shape[-1] // pooled.shape[-1]
        masks = F.max_pool2d(masks[:, None], factor).to(pooled)
        hidden = self.convs(torch.cat([pooled, masks], dim=1)).flatten(1)
        for fc in self.fcs:
            hidden = F.relu(fc(hidden))
        return self.predictor(hidden).gather(1, classes[:, None])[:, 0].float()


def boundary(masks: Tensor, width: int) -> Tensor:
    """Pixels with both inside and outside no further than `width` rows and columns away.

    The edge of the box is no boundary: the object may go on behind it.

    Args:
        masks: (R, S, S) bool.

    Returns:
        (R, S, S) bool.
    """
    size = 2 * width + 1
    inside, outside = (
        F.max_pool2d(m[:, None].float(), size, 1, width)[:, 0] > 0 for m in (masks, ~masks)
    )
    return inside & outside


def replace_along_boundary(coarse: Tensor, fine: Tensor, width: int) -> Tensor:
    """Take the finer mask along the boundary of the coarse one, elsewhere the coarse one.

    Args:
        coarse: (R, S, S) logits.
        fine: (R, 2 S, 2 S) logits.
        width: as for `boundary`, in pixels of the coarse mask.

    Returns:
        (R, 2 S, 2 S) logits.
    """
    return torch.where(double(boundary(coarse >= 0, width)), fine, _upsample(coarse[:, None])[:, 0])


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def double(region: Tensor) -> Tensor:
    """(R, S, S) -> (R, 2 S, 2 S), every pixel four times."""
    return region.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        3,
        stride=stride,
        padding=1,
        bias=False,
        norm=LayerNorm2d(out_channels, eps=1e-6),
        activation=F.relu,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _init_conv(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
