"""Ground truth in the decoder's frame, and one-to-one matching of predictions to it.

Letters: N images, T objects of all of them, Q queries, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from co_detr.ops.boxes import giou_loss, to_absolute_xyxy, to_normalized_cxcywh

PAIRS_AT_ONCE = 2**18
"""Pairs of a prediction and an object whose costs are computed together: each takes about twenty
numbers on the way, which a cache should hold."""


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
        classes = [x.gt_classes for x in instances]
        absolute = torch.cat([x.gt_boxes.tensor for x in instances])
        boxes = to_normalized_cxcywh(absolute, scale[_images_of(classes, device)])
        return cls(classes, list(boxes.split([len(c) for c in classes])), scale)

    @cached_property
    def images(self) -> Tensor:
        """(T,) the image of every object of the batch, image after image."""
        return _images_of(self.classes, self.scale.device)


def _images_of(per_image: Sequence[Tensor], device: torch.device) -> Tensor:
    """(T,) the number of the image that each of the rows of all images belongs to."""
    numbers = [image for image, rows in enumerate(per_image) for _ in range(len(rows))]
    return torch.tensor(numbers, dtype=torch.int64, device=device)


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
        costs = {name: self.cost(problem, ground_truth) for name, problem in problems.items()}
        flat_costs = [cost.flatten() for cost in costs.values()]
        on_host = (torch.cat(flat_costs) if flat_costs else torch.empty(0)).cpu().numpy()
        ends = np.cumsum([cost.numel() for cost in costs.values()], dtype=np.int64)

        matched = {}
        for (name, cost), values in zip(costs.items(), np.split(on_host, ends[:-1])):
            values = values.reshape(cost.shape)
            _check_finite(name, values, ground_truth)
            matched[name] = _solve(values, ground_truth, problems[name].repeats)
        # One copy back, too.
        flat = np.concatenate(
            [np.empty(0, np.int64), *(found.ravel() for found in matched.values())]
        )
        parts = torch.from_numpy(flat).to(ground_truth.scale.device)
        parts = parts.split([found.size for found in matched.values()])
        return {name: p.view(found.shape) for p, (name, found) in zip(parts, matched.items())}

    def cost(self, problem: MatchingProblem, ground_truth: GroundTruth) -> Tensor:
        """(T, L, Q) cost of every object with all predictions for its image."""
        image, scale = ground_truth.images, ground_truth.scale
        classes, targets = torch.cat(ground_truth.classes), torch.cat(ground_truth.boxes)
        if problem.class_agnostic:
            classes = torch.zeros_like(classes)
        L, _, Q, _ = problem.boxes.shape
        costs = [targets.new_empty(0, L, Q)]
        at_once = max(1, PAIRS_AT_ONCE // max(1, L * Q))
        for i, c, target in zip(*(x.split(at_once) for x in (image, classes, targets))):
            logits = problem.logits[:, i, :, c]
            boxes = problem.boxes.transpose(0, 1)[i]
            costs.append(self._costs(logits, boxes, target[:, None, None], scale[i, None, None]))
        return torch.cat(costs)

    def _costs(self, logits: Tensor, boxes: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        """(t, L, Q) costs of boxes (t, L, Q, 4) and of the logits (t, L, Q) of their objects'
        classes; target and scale are (t, 1, 1, 4)."""
        probability, boxes = logits.float().sigmoid(), boxes.float()
        negative = -(1 - probability + 1e-12).log() * (1 - self.alpha) * probability**self.gamma
        positive = -(probability + 1e-12).log() * self.alpha * (1 - probability) ** self.gamma
        l1 = torch.cdist(boxes.flatten(1, 2), target.flatten(1, 2), p=1).view_as(probability)
        giou = 1 - giou_loss(to_absolute_xyxy(boxes, scale), to_absolute_xyxy(target, scale))
        return self.class_cost * (positive - negative) + self.l1_cost * l1 - self.giou_cost * giou


def _check_finite(name: str, costs: np.ndarray, ground_truth: GroundTruth) -> None:
    broken = np.argwhere(~np.isfinite(costs))
    if len(broken):
        number, layer, _ = broken[0]
        image = np.repeat(range(len(ground_truth.classes)), list(map(len, ground_truth.classes)))
        raise FloatingPointError(
            f"matching cost of {name!r} is not finite in layer {layer}, image {image[number]} "
            "of the batch: the model's predictions have diverged, or a box is broken"
        )


def _solve(costs: np.ndarray, ground_truth: GroundTruth, repeats: int) -> np.ndarray:
    """Match the objects of every image in every layer: costs (T, L, Q) to indices (L, N, Q)."""
    _, L, Q = costs.shape
    matched = np.full((L, len(ground_truth.classes), Q), -1, dtype=np.int64)
    first = 0
    for image, classes in enumerate(ground_truth.classes):
        own = costs[first : first + len(classes)]
        for layer in range(L):
            objects, queries = linear_sum_assignment(np.tile(own[:, layer], (repeats, 1)))
            matched[layer, image, queries] = first + objects % max(1, len(own))
        first += len(own)
    return matched
