"""The common half of the dense auxiliary heads: towers, anchors, decoding, detection.

Axes here: N images, A anchors of all levels (fine to coarse, row-major cells, then the anchors of a
cell), C channels. A head is this class plus a rule that labels anchors and the losses that follow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from co_detr.ops.boxes import apply_deltas
from co_detr.ops.soft_nms import NMS, Suppression

from ..input_checks import described
from ..losses import FocalLoss, LossTerm
from .anchors import PyramidAnchors, box_transform
from .base import AuxHead, AuxOutput, keep_best_detections
from .joined_convs import JoinedConvs, SeparateConvs
from .truth import BACKGROUND, IGNORED, PaddedTruth


@dataclass(frozen=True, eq=False)
class DensePredictions:
    """Raw outputs of a dense head, float32.

    Attributes:
        logits: (N, A, num_classes).
        regression: (N, A, regression_dim), what `DenseHead.decode` turns into boxes.
        quality: (N, A) logits of the localization quality (centerness, IoU), or None.
    """

    logits: Tensor
    regression: Tensor
    quality: Tensor | None


@dataclass(frozen=True, eq=False)
class Candidates:
    """What the predictions of each image detect before duplicates are suppressed.

    Attributes:
        anchors: (N, k) indices.
        classes: (N, k).
        scores: (N, k), by which duplicates are suppressed and detections ranked.
        confident: (N, k) bool, whether the score threshold lets it pass.
    """

    anchors: Tensor
    classes: Tensor
    scores: Tensor
    confident: Tensor


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """What the anchors of a batch shall predict.

    Attributes:
        labels: (N, A) int64, 0..num_classes-1, background = num_classes, ignored = -1. Anchors
            that are not valid are ignored.
        boxes: (N, A, 4) assigned ground truth, absolute XYXY; zeros where there is none.
    """

    labels: Tensor
    boxes: Tensor


class DenseHead(AuxHead):
    """Base of the anchor heads: subclasses fill in `assign` and `losses`.

    A head of points is one of anchors, too: those of its cells' middles (`anchor_offset`). Their
    size says nothing then but how large the queries are that are made of them.

    Args:
        in_channels: C of the pyramid.
        num_classes: foreground classes.
        strides: of the pyramid's levels, fine to coarse.
        anchor_scale, scales_per_octave, aspect_ratios, pad_multiple: see `PyramidAnchors`.
        num_convs: 3x3 convolutions in each of the two towers, whose weights all levels share.
        conv_channels: width of the towers; None for `in_channels`.
        norm: after each of these convolutions, as for `detectron2.layers.get_norm`; "GN" has 32
            groups, "" is none.
        conv_bias: whether these convolutions have a bias; None for where no norm follows.
        delta_std: spread of the box deltas (dx, dy, dw, dh): predictions are in this unit.
        prior_probability: score of every class at the start (Lin et al., RetinaNet, Sec. 4.1).
        focal_alpha, focal_gamma: of the class loss.
        loss_weight: factor of all losses, see `aux_loss_weight`.
        class_loss_weight, box_loss_weight, quality_loss_weight: of each loss, times `loss_weight`.
        score_threshold: detections need a higher class score.
        candidates_per_level: most (anchor, class) pairs of a level that are decoded.
        nms_threshold: IoU above which the lower-scored box of a class is dropped.
        suppression: replaces the NMS of `nms_threshold`, for example by `SoftNMS`.
        detections_per_image: most detections.
        sample_features: whether samples carry `features`. Queries built from coordinates alone
            (Co-DINO) do not need them.
        regression_dim: outputs per anchor for its box; subclasses that decode differently set it.
        predict_quality: whether there is a `quality` output; set by the subclass.
        quality_tower: which tower it is read off.
        scale_levels: whether each level multiplies its regression by a learned number; set by the
            subclass.
        anchor_offset: see `PyramidAnchors`; set by the subclass.
        padding_valid: whether anchors in the padding take part, as background; set by the subclass.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        anchor_scale: float = 8.0,
        scales_per_octave: int = 1,
        aspect_ratios: Sequence[float] = (1.0,),
        pad_multiple: int = 1,
        num_convs: int = 1,
        conv_channels: int | None = None,
        norm: str | Callable = "GN",
        conv_bias: bool | None = None,
        delta_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2),
        prior_probability: float = 0.01,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        loss_weight: float = 12.0,
        class_loss_weight: float = 1.0,
        box_loss_weight: float = 2.0,
        quality_loss_weight: float = 1.0,
        score_threshold: float = 0.0,
        candidates_per_level: int = 1000,
        nms_threshold: float = 0.6,
        suppression: Suppression | None = None,
        detections_per_image: int = 100,
        sample_features: bool = True,
        regression_dim: int = 4,
        predict_quality: bool = False,
        quality_tower: Literal["box", "class"] = "box",
        scale_levels: bool = False,
        anchor_offset: float = 0.0,
        padding_valid: bool = False,
    ):
        if quality_tower not in ("box", "class"):
            raise ValueError(f'quality_tower must be "box" or "class", got {quality_tower!r}')
        super().__init__()
        self.num_classes = num_classes
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.class_loss_weight = loss_weight * class_loss_weight
        self.box_loss_weight = loss_weight * box_loss_weight
        self.quality_loss_weight = loss_weight * quality_loss_weight
        self.score_threshold = score_threshold
        self.candidates_per_level = candidates_per_level
        self.suppression = suppression if suppression is not None else NMS(nms_threshold)
        self.detections_per_image = detections_per_image
        self.sample_features = sample_features
        self.regression_dim = regression_dim
        self.quality_tower = quality_tower
        self.anchor_scale = anchor_scale

        self.anchors = PyramidAnchors(
            strides=strides,
            scale=anchor_scale,
            scales_per_octave=scales_per_octave,
            aspect_ratios=aspect_ratios,
            pad_multiple=pad_multiple,
            offset=anchor_offset,
            padding_valid=padding_valid,
        )
        self.box_transform = box_transform(delta_std)

        channels = conv_channels or in_channels
        per_cell = self.anchors.num_per_cell
        bias = not norm if conv_bias is None else conv_bias
        self.class_tower = _tower(in_channels, channels, num_convs, norm, bias)
        self.box_tower = _tower(in_channels, channels, num_convs, norm, bias)
        width = channels if num_convs else in_channels
        self.class_predictor = nn.Conv2d(width, per_cell * num_classes, 3, padding=1)
        self.box_predictor = nn.Conv2d(width, per_cell * regression_dim, 3, padding=1)
        self.quality_predictor = (
            nn.Conv2d(width, per_cell, 3, padding=1) if predict_quality else None
        )
        self.scales = (
            nn.ParameterList(torch.ones(()) for _ in self.anchors.strides) if scale_levels else None
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        prior_logit = math.log(prior_probability / (1 - prior_probability))
        assert self.class_predictor.bias is not None
        nn.init.constant_(self.class_predictor.bias, prior_logit)

    # ------------------------------------------------------------ what a head must say

    def assign(
        self,
        anchors: list[Tensor],
        valid: Tensor,
        predictions: DensePredictions,
        truth: PaddedTruth,
    ) -> DenseTargets:
        """Label the anchors of a batch, all images at once; `matched_targets` makes the result.

        Nothing in here or in `losses` may make the host wait for the device: no `nonzero`, no
        boolean indexing, no `item`. What there is none of is masked, not left out.

        Args:
            anchors: per level (A_l, 4), absolute XYXY.
            valid: (N, A), False for anchors in the padding.
            predictions: for rules that look at them, without gradient.
            truth: the objects.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no assign(anchors, valid, predictions, truth), by which a "
            "dense head labels its anchors"
        )

    def losses(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> dict[str, LossTerm]:
        """Compute the weighted losses; `anchors` are those of all levels, (A, 4)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no losses(anchors, predictions, targets), by which a dense "
            "head is trained"
        )

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Turn (..., regression_dim) outputs for anchors (..., 4) into unclipped XYXY boxes."""
        transform = self.box_transform
        return apply_deltas(anchors, regression, transform.weights, transform.scale_clamp)

    # ------------------------------------------------------------ the template

    def forward(
        self,
        features: list[Tensor],
        image_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> AuxOutput:
        """As `AuxHead.forward`.

        Raises:
            NotImplementedError: the head has no `assign` or no `losses`.
            TypeError, ValueError: `assign` returns something else than is described there.
        """
        anchors = self.anchors(features)
        valid = self.anchors.valid(features, image_sizes)
        predictions = self.predict(features)
        with torch.no_grad():
            truth = PaddedTruth.from_instances(gt_instances)
            targets = self.assign(anchors, valid, predictions, truth)
            self._check_targets(targets, valid)
        anchors = torch.cat(anchors)
        losses = self.losses(anchors, predictions, targets)
        return AuxOutput(losses, self.samples(features, image_sizes, anchors, valid, targets))

    def _check_targets(self, targets: Any, valid: Tensor) -> None:
        """Look at what `assign` returned, for anchors of which `valid` (N, A) tells."""
        if not isinstance(targets, DenseTargets):
            raise TypeError(
                f"{type(self).__name__}.assign returned {described(targets)}, wanted are "
                "DenseTargets: self.matched_targets(matches, valid, truth) makes them of matches"
            )
        N, A = valid.shape
        self._check_assigned("labels", targets.labels, (N, A))
        self._check_assigned("boxes", targets.boxes, (N, A, 4), floating=True)

    def _check_assigned(
        self, what: str, value: Any, shape: tuple[int, ...], floating: bool = False
    ) -> None:
        """Raise ValueError for what `assign` makes, if it has another dtype or shape."""
        fits = isinstance(value, Tensor) and value.shape == shape
        if not fits or not (value.is_floating_point() if floating else value.dtype == torch.int64):
            kind = "floating-point numbers" if floating else "int64"
            raise ValueError(
                f"{type(self).__name__}.assign makes {what} that are {described(value)}, wanted "
                f"is a tensor of {kind} and shape {shape}: {shape[0]} images, {shape[1]} anchors "
                "of all levels"
            )

    def predict(self, features: list[Tensor]) -> DensePredictions:
        """Apply the towers and predictors to every level."""
        readers = {"class": [self.class_predictor], "box": [self.box_predictor]}
        if self.quality_predictor is not None:
            readers[self.quality_tower].append(self.quality_predictor)
        # in inference one after the other: each is then a call of its module, and can be counted
        join = JoinedConvs if self.training else SeparateConvs
        leave = {tower: join(convs) for tower, convs in readers.items()}
        first = [cast(Conv2d, tower[0]) for tower in (self.class_tower, self.box_tower) if tower]
        enter = JoinedConvs(first) if first and self.training else None

        logits, regression, quality = [], [], []
        for level, feature in enumerate(features):
            maps = self._towers(feature, enter)
            outputs = {tower: predict(maps[tower]) for tower, predict in leave.items()}
            deltas = outputs["box"][0]
            if self.scales is not None:
                deltas = deltas * self.scales[level]
            logits.append(per_anchor(outputs["class"][0], self.num_classes))
            regression.append(per_anchor(deltas, self.regression_dim))
            if self.quality_predictor is not None:
                quality.append(per_anchor(outputs[self.quality_tower][1], 1))
        return DensePredictions(
            torch.cat(logits, dim=1),
            torch.cat(regression, dim=1),
            torch.cat(quality, dim=1).squeeze(-1) if quality else None,
        )

    def _towers(self, feature: Tensor, enter: JoinedConvs | None) -> dict[str, Tensor]:
        """What both towers make of a map; `enter` is the first convolution of both, if joined."""
        # maps of tokens have their channels last, which makes group norms on a CPU several times
        # slower
        feature = feature.contiguous() if self.class_tower else feature
        if enter is None:
            return {"class": self.class_tower(feature), "box": self.box_tower(feature)}
        maps = {}
        entered = enter(feature)
        for name, tower, x in zip(("class", "box"), (self.class_tower, self.box_tower), entered):
            first, others = cast(Conv2d, tower[0]), tower[1:]
            x = x if first.norm is None else first.norm(x)
            x = x if first.activation is None else first.activation(x)
            for conv in others:
                x = conv(x)
            maps[name] = x
        return maps

    def matched_targets(self, matches: Tensor, valid: Tensor, truth: PaddedTruth) -> DenseTargets:
        """Make targets of matches (N, A): indices of objects of the image, BACKGROUND, IGNORED.

        Raises:
            ValueError: they have another dtype or shape or, where that is known without waiting for
                a device, no object has such an index.
        """
        N, A = valid.shape
        self._check_assigned("matches", matches, (N, A))
        if matches.device.type == "cpu":  # nothing waits for it there
            highest = matches.numpy().max(axis=1, where=valid.numpy(), initial=BACKGROUND)
            for image, (index, count) in enumerate(zip(highest, truth.counts)):
                if index >= count:
                    raise ValueError(
                        f"{type(self).__name__}.assign matches an anchor to the object {index} of "
                        f"image {image} of the batch, which has {count}: an index counts the "
                        "objects of the image, from 0; that of no object is BACKGROUND"
                    )
        labels, boxes = truth.look_up(matches, self.num_classes)
        return DenseTargets(labels.masked_fill(~valid | (matches == IGNORED), -1), boxes)

    def is_positive(self, labels: Tensor) -> Tensor:
        """Tell labels of foreground classes from background and ignored ones, elementwise."""
        return (labels >= 0) & (labels < self.num_classes)

    def compare(
        self, anchors: Tensor, predictions: DensePredictions, targets: DenseTargets
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pair predicted boxes with what they shall be, for losses of which only the positive
        anchors' will count.

        Returns:
            decoded boxes (N, A, 4), not clipped; the assigned ones (N, A, 4), where there is none
            the anchor itself, of which every loss is finite; and what is positive, (N, A).
        """
        positive = self.is_positive(targets.labels)
        truth = targets.boxes.where(positive[..., None], anchors)
        return self.decode(predictions.regression, anchors.expand_as(truth)), truth, positive

    def strides_of(self, anchors: Tensor) -> Tensor:
        """(...) strides of the levels of anchors (..., 4), of heads with one square anchor per
        cell."""
        return (anchors[..., 2] - anchors[..., 0]) / self.anchor_scale

    def focal_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the sigmoid focal loss (RetinaNet, Eq. 5) of each anchor, summed over classes.

        Args:
            logits: (N, A, num_classes).
            labels: (N, A) as in `DenseTargets`.

        Returns:
            (N, A), 0 where the anchor is ignored.
        """
        loss = FocalLoss(alpha=self.focal_alpha, gamma=self.focal_gamma)
        return loss(logits, labels) * (labels >= 0)

    def samples(
        self,
        features: list[Tensor],
        image_sizes: list[tuple[int, int]],
        anchors: Tensor,
        valid: Tensor,
        targets: DenseTargets,
    ) -> list[Instances]:
        """Describe all anchors, in their flat order, as labelled samples.

        Anchors in the padding are background at the place (0, 0, 0, 0), as in the released model.
        The feature of an anchor is the pyramid's token at its cell.
        """
        boxes = anchors * valid[..., None]
        labels = targets.labels.masked_fill(~valid, self.num_classes)
        samples = [
            Instances((h, w), proposal_boxes=Boxes(b), gt_classes=c, gt_boxes=Boxes(t))
            for (h, w), b, c, t in zip(image_sizes, boxes, labels, targets.boxes)
        ]
        if self.sample_features:
            tokens = torch.cat([feature.flatten(2) for feature in features], dim=2).transpose(1, 2)
            if self.anchors.num_per_cell > 1:
                tokens = tokens.repeat_interleave(self.anchors.num_per_cell, dim=1)
            for sample, feature in zip(samples, tokens):
                sample.features = feature
        return samples

    def inference(
        self, features: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        levels = self.anchors(features)
        anchors, predictions = torch.cat(levels), self.predict(features)
        found = self.candidates(predictions, [len(level) for level in levels])
        image = torch.arange(len(found.anchors), device=anchors.device)[:, None]
        boxes = self.decode(predictions.regression[image, found.anchors], anchors[found.anchors])
        # Boxes without area stay, as in the other heads and in the release: they overlap nothing,
        # take their place among the detections, and are dropped with the rescaling.
        return [
            self.detect(clip_boxes_to_image(b, (h, w))[keep], s[keep], c[keep], (h, w))
            for (h, w), b, s, c, keep in zip(
                image_sizes, boxes, found.scores, found.classes, found.confident
            )
        ]

    def candidates(self, predictions: DensePredictions, level_sizes: list[int]) -> Candidates:
        """Choose what is decoded: of each level the (anchor, class) pairs of the best class scores.

        Quality only joins in for the suppression.

        Args:
            predictions: of all anchors.
            level_sizes: number of anchors of each level.
        """
        scores, index = best_of_levels(
            predictions.logits.sigmoid(), level_sizes, self.candidates_per_level
        )
        anchors, classes = index // self.num_classes, index % self.num_classes
        confident = scores > self.score_threshold
        if predictions.quality is not None:
            scores = scores * predictions.quality.sigmoid().gather(1, anchors)
        return Candidates(anchors, classes, scores, confident)

    def detect(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """Make detections of the confident candidates of one image: (n, 4), clipped; (n,); (n,)."""
        return keep_best_detections(
            boxes,
            scores,
            classes,
            image_size,
            suppression=self.suppression,
            limit=self.detections_per_image,
        )


def best_of_levels(scores: Tensor, level_sizes: Sequence[int], limit: int) -> tuple[Tensor, Tensor]:
    """Take the best scores of every level.

    Args:
        scores: (N, A, k).
        level_sizes: number of anchors of each level.
        limit: most of a level.

    Returns:
        scores and indices into A * k, both (N, at most `limit` times the number of levels).
    """
    best, index, start = [], [], 0
    for part in scores.split(list(level_sizes), dim=1):
        part = part.flatten(1)
        values, indices = part.topk(min(limit, part.shape[1]), dim=1)
        best.append(values)
        index.append(indices + start)
        start += part.shape[1]
    return torch.cat(best, dim=1), torch.cat(index, dim=1)


def per_anchor(output: Tensor, width: int) -> Tensor:
    """Reorder a map (N, B * width, H, W), B anchors per cell, to (N, H * W * B, width), float32."""
    return output.permute(0, 2, 3, 1).reshape(len(output), -1, width).float()


def _tower(
    in_channels: int, channels: int, num_convs: int, norm: str | Callable, bias: bool
) -> nn.Sequential:
    """Stack 3x3 convolutions with norm and ReLU."""
    return nn.Sequential(
        *(
            Conv2d(
                in_channels if i == 0 else channels,
                channels,
                3,
                padding=1,
                bias=bias,
                norm=get_norm(norm, channels),
                activation=F.relu,
            )
            for i in range(num_convs)
        )
    )
