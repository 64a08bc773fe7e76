"""Ground truth in the decoder's frame, and one-to-one matching of predictions to it.

Letters: N images, Q queries, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou

from co_detr.ops.boxes import to_absolute_xyxy, to_normalized_cxcywh

PAIRS_AT_ONCE = 2**22
"""Pairs of a prediction and an object whose costs are computed together: each takes about ten
numbers on the way."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects of a batch.

    Attributes:
        classes: per image (G,) labels.
        boxes: per image (G, 4), normalized cxcywh.
        scale: (N, 4), (w, h, w, h) of each image's valid size in pixels.
    """

    classes: list[Tensor]
    boxes: list[Tensor]
    scale: Tensor

    @classmethod
    def from_instances(
        cls, instances: Sequence[Instances], image_sizes: Sequence[tuple[int, int]]
    ) -> "GroundTruth":
        """Read `gt_classes` and `gt_boxes` of images with valid (height, width) `image_sizes`."""
        device = instances[0].gt_boxes.device
        scale = torch.tensor(
            [(w, h, w, h) for h, w in image_sizes], dtype=torch.float32, device=device
        )
        boxes = [to_normalized_cxcywh(x.gt_boxes.tensor, s) for x, s in zip(instances, scale)]
        return cls([x.gt_classes for x in instances], boxes, scale)


@dataclass(frozen=True, eq=False)
class MatchingProblem:
    """Predictions that want a matching: logits (L, N, Q, num_classes), boxes (L, N, Q, 4).

    `class_agnostic` treats every object as class 0; `repeats` matches every object so many times.
    """

    logits: Tensor
    boxes: Tensor
    class_agnostic: bool = False
    repeats: int = 1


class HungarianMatcher(nn.Module):
    """Cheapest one-to-one assignment of predictions to objects (DETR, equation 1).

    The cost is a focal class cost, plus L1 between normalized cxcywh boxes, minus GIoU in pixels.
    """

    def __init__(
        self,
        *,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        super().__init__()
        self.class_cost, self.l1_cost, self.giou_cost = class_cost, l1_cost, giou_cost
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def forward(
        self, problems: Mapping[str, MatchingProblem], ground_truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Solve all layers, images and problems from one copy to the host.

        Returns:
            by problem, (L, N, Q): the matched object as an index into the batch's objects
            (image after image), or -1.

        Raises:
            FloatingPointError: a cost is not finite; names the problem, layer and image.
        """
        costs = {
            (name, image): self.cost(problem, ground_truth, image)
            for name, problem in problems.items()
            for image in range(len(ground_truth.classes))
        }
        device = ground_truth.scale.device
        flat = [cost.flatten() for cost in costs.values()]
        on_host = (torch.cat(flat) if flat else torch.empty(0)).cpu().numpy()
        first_object = np.cumsum([0] + [len(c) for c in ground_truth.classes])

        matched = {
            name: np.full(problem.boxes.shape[:3], -1, dtype=np.int64)
            for name, problem in problems.items()
        }
        start = 0
        for (name, image), cost in costs.items():
            values = on_host[start : start + cost.numel()].reshape(cost.shape)
            start += cost.numel()
            repeats = problems[name].repeats
            for layer, layer_cost in enumerate(values):
                if not np.isfinite(layer_cost).all():
                    raise FloatingPointError(
                        f"matching cost of {name!r} is not finite in layer {layer}, image {image} "
                        "of the batch: the model's predictions have diverged, or a box is broken"
                    )
                queries, objects = linear_sum_assignment(np.tile(layer_cost, (1, repeats)))
                objects = objects % max(1, layer_cost.shape[1])
                matched[name][layer, image, queries] = objects + first_object[image]
        # One copy back, too.
        flat = np.concatenate(
            [np.empty(0, np.int64), *(found.ravel() for found in matched.values())]
        )
        parts = torch.from_numpy(flat).to(device).split([found.size for found in matched.values()])
        return {name: p.view(found.shape) for p, (name, found) in zip(parts, matched.items())}

    def cost(self, problem: MatchingProblem, ground_truth: GroundTruth, image: int) -> Tensor:
        """(L, Q, G) cost of every pair of a prediction and an object of one image."""
        classes, target = ground_truth.classes[image], ground_truth.boxes[image]
        scale = ground_truth.scale[image]
        if problem.class_agnostic:
            classes = torch.zeros_like(classes)
        logits = problem.logits[:, image][..., classes].float()
        boxes = problem.boxes[:, image].float()
        at_once = max(1, PAIRS_AT_ONCE // max(1, len(target)))
        pairs = zip(logits.flatten(0, 1).split(at_once), boxes.flatten(0, 1).split(at_once))
        costs = torch.cat([self._costs(*predicted, target, scale) for predicted in pairs])
        return costs.unflatten(0, boxes.shape[:2])

    def _costs(self, logits: Tensor, boxes: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        """(R, G) costs of boxes (R, 4) with objects (G, 4), whose classes' logits are (R, G)."""
        probability = logits.sigmoid()
        negative = -(1 - probability + 1e-12).log() * (1 - self.alpha) * probability**self.gamma
        positive = -(probability + 1e-12).log() * self.alpha * (1 - probability) ** self.gamma
        l1 = torch.cdist(boxes, target, p=1)
        giou = generalized_box_iou(to_absolute_xyxy(boxes, scale), to_absolute_xyxy(target, scale))
        return self.class_cost * (positive - negative) + self.l1_cost * l1 - self.giou_cost * giou
